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

// Returns once `value` is no longer `old`. Past the spinning another program has our partner's core: asleep we leave it
// ours, and are woken ahead of those who compute.
template <typename T>
void wait_for_change(const std::atomic<T>& value, T old) noexcept {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause_briefly();
  }
  value.wait(old, std::memory_order_acquire);
}

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
    generation_.notify_all();
    return;
  }
  wait_for_change(generation_, generation);
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
  stop_.store(true);
  region_.fetch_add(1);
  region_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(WorkerFunction function) noexcept {
  if (size_ == 1) return function(0);
  function_ = &function;
  running_.store(size_ - 1, std::memory_order_relaxed);
  region_.fetch_add(1, std::memory_order_release);
  region_.notify_all();
  function(0);
  for (int left = running_.load(std::memory_order_acquire); left != 0; left = running_.load(std::memory_order_acquire)) {
    wait_for_change(running_, left);
  }
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    wait_for_change(region_, seen);
    if (stop_.load()) return;
    ++seen;
    (*function_)(worker);
    running_.fetch_sub(1, std::memory_order_acq_rel);
    running_.notify_one();
  }
}

}  // namespace edgewise
