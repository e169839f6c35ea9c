#include "runtime/service.h"

#include "base/error.h"

namespace edgewise {
namespace {

constexpr std::chrono::milliseconds kReadingPoll{1};

}  // namespace

Service::Service(Session& session, int max_waiting, std::function<void()> on_fault)
    : session_(session), max_waiting_(max_waiting), on_fault_(std::move(on_fault)), thread_([this] { loop(); }) {}

Service::~Service() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

Service::Ticket Service::submit(const Request& request, ProgressCallback callback) {
  auto generation = session_.prepare(request, std::move(callback));
  const std::lock_guard lock(mutex_);
  if (!stats_.fault.empty()) fail(ErrorKind::kIo, "{}", stats_.fault);
  if (draining_ || stop_) fail(ErrorKind::kBusy, "the service is shutting down");
  if (stats_.waiting + static_cast<int>(inbox_.size()) >= max_waiting_) {
    ++stats_.refused;
    fail(ErrorKind::kBusy, "{} requests wait already; try again later", max_waiting_);
  }
  ++stats_.requests;
  inbox_.emplace(++last_ticket_, std::move(generation));
  wake_.notify_one();
  return last_ticket_;
}

void Service::cancel(Ticket ticket) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(ticket);
  wake_.notify_one();
}

void Service::between_steps(const std::function<void()>& task) {
  std::future<void> done;
  {
    const std::lock_guard lock(mutex_);
    done = tasks_.emplace_back(task).get_future();
  }
  wake_.notify_one();
  done.get();
}

bool Service::drain(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  return emptied_.wait_for(lock, timeout, [this] { return inbox_.empty() && under_way_ == 0; });
}

ServiceStats Service::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void Service::loop() {
  {
    const std::lock_guard lock(mutex_);
    read_gauges();
  }
  while (take_orders()) {
    const StepOutcome outcome = session_.step();
    end_answers();
    if (outcome == StepOutcome::kDeviceFault) note_fault();
  }
  for (auto& [ticket, generation] : active_) session_.cancel(*generation);
  for (auto& [ticket, generation] : inbox_) session_.cancel(*generation);
}

// New requests to the scheduler, cancelled ones out of it; sleeps while there is nothing to do. False: the end.
bool Service::take_orders() {
  std::unique_lock lock(mutex_);
  const bool reading = !inbox_.empty();  // an adapter's files; nobody calls when they are read
  const auto until = reading ? std::chrono::steady_clock::now() + kReadingPoll : session_.adapters().next_unload();
  wake_.wait_until(lock, until,
                   [&] { return stop_ || !active_.empty() || !tasks_.empty() || (!reading && !inbox_.empty()); });
  if (stop_) return false;
  const std::vector<Ticket> cancelled = std::exchange(cancelled_, {});
  for (const Ticket ticket : cancelled) active_.insert(inbox_.extract(ticket));
  for (auto next = inbox_.begin(); next != inbox_.end();) {
    const auto entry = next++;
    if (!entry->second->ready()) continue;
    begin(*entry->second);
    active_.insert(inbox_.extract(entry));
  }
  under_way_ = active_.size();
  auto tasks = std::exchange(tasks_, {});
  lock.unlock();
  for (auto& task : tasks) task();
  for (const Ticket ticket : cancelled) {
    if (const auto found = active_.find(ticket); found != active_.end()) session_.cancel(*found->second);
  }
  return true;
}

void Service::note_fault() {
  {
    const std::lock_guard lock(mutex_);
    if (!stats_.fault.empty()) return;
    stats_.fault = session_.executable().fault();
    if (stats_.fault.empty()) return;  // of that step only
  }
  if (on_fault_) on_fault_();
}

void Service::begin(Generation& generation) {
  try {
    session_.begin(generation);
  } catch (...) {
    generation.fail();
  }
}

void Service::end_answers() {
  const std::lock_guard lock(mutex_);
  std::erase_if(active_, [this](const auto& entry) {
    if (!entry.second->done()) return false;
    count(entry.second->completion());
    return true;
  });
  under_way_ = active_.size();
  stats_.generated_tokens = ended_tokens_;
  for (const auto& [ticket, generation] : active_) stats_.generated_tokens += generation->completion().tokens.size();
  session_.adapters().unload_unused();
  read_gauges();
  if (active_.empty() && inbox_.empty()) emptied_.notify_all();
}

void Service::read_gauges() {
  const Scheduler& scheduler = session_.scheduler();
  stats_.running = scheduler.running();
  stats_.waiting = scheduler.waiting();
  stats_.pages = scheduler.cache().pages();
  stats_.pages_available = scheduler.cache().available();
  stats_.adapters = session_.adapters().stats();
}

void Service::count(const Completion& completion) {
  switch (completion.finish) {
    case FinishReason::kCancelled:
      ++stats_.cancelled;
      break;
    case FinishReason::kError:
      ++stats_.failed;
      break;
    default:
      ++stats_.stopped;
  }
  stats_.prompt_tokens += static_cast<uint64_t>(completion.prompt_tokens);
  stats_.cached_tokens += static_cast<uint64_t>(completion.cached_tokens);
  ended_tokens_ += completion.tokens.size();
  stats_.preemptions += static_cast<uint64_t>(completion.preemptions);
  stats_.drafted_tokens += static_cast<uint64_t>(completion.drafted_tokens);
  stats_.accepted_tokens += static_cast<uint64_t>(completion.accepted_tokens);
  stats_.verifications += static_cast<uint64_t>(completion.verifications);
}

}  // namespace edgewise
