#include "runtime/mask_worker.h"

namespace edgewise {

MaskWorker::~MaskWorker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void MaskWorker::launch() {
  if (!thread_.joinable()) thread_ = std::thread([this] { loop(); });
}

void MaskWorker::start(const std::vector<Sequence*>& sequences) noexcept {
  const std::lock_guard lock(mutex_);
  for (Sequence* sequence : sequences) {
    if (sequence->constraint) work_.push_back(sequence);
  }
  if (!work_.empty()) changed_.notify_all();
}

void MaskWorker::wait() noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return work_.empty(); });
}

void MaskWorker::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || !work_.empty(); });
    if (stop_) return;
    lock.unlock();
    for (Sequence* sequence : work_) sequence->constraint->fill_mask();
    lock.lock();
    work_.clear();
    changed_.notify_all();
  }
}

}  // namespace edgewise
