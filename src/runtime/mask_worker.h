// Fills the token masks of a step's constrained sequences on a thread of its own while the step runs.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "backends/backend.h"
#include "runtime/sequence.h"

namespace edgewise {

class MaskWorker final : public MaskMaker {
 public:
  explicit MaskWorker(int max_sequences) { work_.reserve(static_cast<size_t>(max_sequences)); }
  ~MaskWorker() override;

  // Once before the first start(); the thread is there from then on.
  void launch();
  // Between start() and wait() the constraints of `sequences` are the worker's.
  void start(const std::vector<Sequence*>& sequences) noexcept;
  void wait() noexcept override;

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Sequence*> work_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace edgewise
