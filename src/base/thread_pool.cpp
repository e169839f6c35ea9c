#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace edgewise {
namespace {

inline void pause_briefly() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 50 microseconds of spinning: longer than the gap between two operators, far shorter than a nap.
constexpr int kSpins = 2000;

int cgroup_cores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
  return std::max(1, static_cast<int>(std::stod(quota) / period));
}

}  // namespace

void SpinBarrier::arrive_and_wait() noexcept {
  if (count_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    return;
  }
  for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
    if (spins < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();  // another program has our partner's core
    }
  }
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int allowed = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  return std::max(1, std::min(allowed, cgroup_cores()));
}

ThreadPool::ThreadPool(int threads) : size_(threads > 0 ? threads : available_cores()), barrier_(size_) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const bool pin = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) >= size_;
  std::vector<int> cores;
  for (int core = 0; pin && core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  for (int worker = 1; worker < size_; ++worker) {
    threads_.emplace_back([this, worker] { work(worker); });
    if (pin) {
      // Worker 0 is the caller's own thread and stays where the scheduler puts it.
      cpu_set_t set;
      CPU_ZERO(&set);
      for (const int core : cores) CPU_SET(core, &set);
      if (static_cast<int>(cores.size()) > size_) {
        CPU_ZERO(&set);
        CPU_SET(cores[static_cast<size_t>(worker)], &set);
      }
      pthread_setaffinity_np(threads_.back().native_handle(), sizeof(set), &set);
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_.store(true);
    region_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(WorkerFunction function) noexcept {
  if (size_ == 1) return function(0);
  function_ = &function;
  running_.store(size_ - 1, std::memory_order_relaxed);
  {
    // The lock pairs with the sleeper's check, so that no wake-up is lost.
    const std::lock_guard lock(mutex_);
    region_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  function(0);
  for (int spins = 0; running_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    int spins = 0;
    while (region_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        pause_briefly();
      } else {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return region_.load(std::memory_order_acquire) != seen; });
      }
    }
    if (stop_.load()) return;
    ++seen;
    (*function_)(worker);
    running_.fetch_sub(1, std::memory_order_acq_rel);
  }
}

}  // namespace edgewise
