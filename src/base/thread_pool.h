// Pinned workers that run one parallel region a step, and the barrier operators meet at inside it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace edgewise {

// A callable borrowed for the length of a call; copies nothing and allocates nothing.
class WorkerFunction {
 public:
  template <typename F>
  WorkerFunction(const F& function)  // NOLINT: implicit, so that a lambda can be passed directly
      : object_(&function), call_([](const void* object, int worker) { (*static_cast<const F*>(object))(worker); }) {}
  void operator()(int worker) const { call_(object_, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, int);
};

// A counter that threads wait on: spins briefly, then sleeps in the kernel. std::atomic::wait of GCC 12 loses a wake-up
// once in some hundred thousand.
class WaitCounter {
 public:
  uint32_t load() const noexcept { return value_.load(std::memory_order_acquire); }
  // What stood here before; wakes those who wait.
  uint32_t add(uint32_t amount) noexcept;
  // Nobody may be waiting.
  void reset(uint32_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  // Returns once the value is no longer `old`.
  void wait_while(uint32_t old) noexcept;

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> sleepers_{0};
};

// All `count` threads wait until the last one arrives.
class SpinBarrier {
 public:
  explicit SpinBarrier(int count) : count_(count) {}
  // `last`: done by the last one, before anybody goes on.
  template <typename F>
  void arrive_and_wait(F last) noexcept {
    const uint32_t generation = generation_.load();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < count_) return generation_.wait_while(generation);
    arrived_.store(0, std::memory_order_relaxed);
    last();
    generation_.add(1);
  }

 private:
  const int count_;
  std::atomic<int> arrived_{0};
  WaitCounter generation_;
};

// The half-open share of `count` items that `worker` of `workers` takes, in multiples of `grain`.
struct Range {
  int64_t begin;
  int64_t end;
};
inline Range share_of(int64_t count, int worker, int workers, int64_t grain = 1) {
  const int64_t units = (count + grain - 1) / grain;
  const int64_t begin = units * worker / workers * grain;
  const int64_t end = units * (worker + 1) / workers * grain;
  return {begin < count ? begin : count, end < count ? end : count};
}

class ThreadPool {
 public:
  // `threads` workers, the caller being worker 0; 0 means as many as this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }
  // Runs function(worker) on every worker, 0 <= worker < size(), and returns when all are done.
  // One region at a time; the function must not throw.
  void run(WorkerFunction function) noexcept;
  // For use inside a region, by all workers.
  void barrier() noexcept {
    barrier_.arrive_and_wait([this] { taken_.store(0, std::memory_order_relaxed); });
  }
  // The next of `count` items that nobody has taken since the last barrier, empty when there are none: fewer and fewer
  // at a time, in multiples of `grain`, so that workers that are disturbed hold up nobody.
  Range take(int64_t count, int64_t grain = 1) noexcept;

 private:
  void work(int worker);

  int size_;
  SpinBarrier barrier_;
  std::atomic<int64_t> taken_{0};
  WaitCounter region_;
  WaitCounter running_;
  std::atomic<bool> stop_{false};
  const WorkerFunction* function_ = nullptr;
  std::vector<std::thread> threads_;
};

// Cores this process may run on (affinity mask and cgroup quota).
int available_cores();

}  // namespace edgewise
