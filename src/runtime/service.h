// A Session with a thread of its own: requests come from any thread, answers go out as they are made.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "runtime/session.h"

namespace edgewise {

// Since the start, and as of the last step.
struct ServiceStats {
  int running = 0;
  int waiting = 0;
  int pages = 0;
  int pages_available = 0;
  uint64_t requests = 0;  // that were taken
  uint64_t refused = 0;   // because too many waited
  uint64_t stopped = 0;   // by an end token, a stop string or their length
  uint64_t cancelled = 0;
  uint64_t failed = 0;
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t drafted_tokens = 0;  // tried ahead
  uint64_t accepted_tokens = 0;
  uint64_t verifications = 0;  // steps of one answer that tried some
  AdapterStats adapters;
  std::string fault;  // of the device, after which no request is taken; else ""
};

class Service {
 public:
  // `session` is the service's alone while it lives. More than `max_waiting` requests in the queue are refused. After a
  // fault of the device all answers end with its error, no request is taken, and `on_fault` is called once.
  Service(Session& session, int max_waiting, std::function<void()> on_fault = {});
  // Cancels what is under way.
  ~Service();
  Service(const Service&) = delete;
  Service& operator=(const Service&) = delete;

  using Ticket = uint64_t;
  // The callback runs on the service's thread and must return quickly. Throws Error(kUsage) for a request that can't be
  // run, Error(kBusy) when too many wait or the service is draining, Error(kIo) after a fault of the device.
  Ticket submit(const Request& request, ProgressCallback callback);
  // The answer ends within a step with FinishReason::kCancelled. Nothing happens when it has ended already.
  void cancel(Ticket ticket);
  // Runs `task` on the service's thread, which may change the session there, and returns when it is done. Throws what
  // the task throws.
  void between_steps(const std::function<void()>& task);
  // Takes no more requests; true once the last answer has ended, false at the deadline.
  bool drain(std::chrono::milliseconds timeout);
  ServiceStats stats() const;

 private:
  using Answers = std::map<Ticket, std::unique_ptr<Generation>>;

  void loop();
  bool take_orders();
  void note_fault();
  void begin(Generation& generation);
  void end_answers();
  void read_gauges();
  void count(const Completion& completion);

  Session& session_;
  const int max_waiting_;
  const std::function<void()> on_fault_;
  mutable std::mutex mutex_;  // guards all but active_
  std::condition_variable wake_;
  std::condition_variable emptied_;
  bool stop_ = false;
  bool draining_ = false;
  Ticket last_ticket_ = 0;
  Answers inbox_;  // not yet with the scheduler
  std::vector<Ticket> cancelled_;
  std::vector<std::packaged_task<void()>> tasks_;
  ServiceStats stats_;
  size_t under_way_ = 0;
  uint64_t ended_tokens_ = 0;  // of answers that have ended

  Answers active_;  // the loop's own
  std::thread thread_;
};

}  // namespace edgewise
