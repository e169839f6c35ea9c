#include "base/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
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

// Either the waker sees the sleeper counted, or the sleeper's kernel call sees the new value: both sides write, then
// read, in sequentially consistent order.
uint32_t WaitCounter::add(uint32_t amount) noexcept {
  const uint32_t before = value_.fetch_add(amount, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) {
    syscall(SYS_futex, &value_, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  return before;
}

// Past the spinning another program has our partner's core: asleep we leave it ours, and are woken ahead of those who
// compute.
void WaitCounter::wait_while(uint32_t old) noexcept {
  for (int spins = 0; spins < kSpins; ++spins) {
    if (load() != old) return;
    pause_briefly();
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == old) {
    syscall(SYS_futex, &value_, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
  }
  sleepers_.fetch_sub(1, std::memory_order_seq_cst);
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
  region_.add(1);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(WorkerFunction function) noexcept {
  if (size_ == 1) return function(0);
  function_ = &function;
  running_.reset(static_cast<uint32_t>(size_ - 1));
  region_.add(1);
  function(0);
  for (uint32_t left = running_.load(); left != 0; left = running_.load()) running_.wait_while(left);
}

Range ThreadPool::take(int64_t count, int64_t grain) noexcept {
  const int64_t parts = size_ == 1 ? 1 : 4 * size_;  // of what is left
  int64_t begin = taken_.load(std::memory_order_relaxed);
  int64_t end = begin;
  do {
    if (begin >= count) return {count, count};
    const int64_t units = (count - begin + grain - 1) / grain;
    end = std::min(count, begin + std::max<int64_t>(1, units / parts) * grain);
  } while (!taken_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
  return {begin, end};
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  for (;;) {
    region_.wait_while(seen);
    if (stop_.load()) return;
    ++seen;
    (*function_)(worker);
    running_.add(static_cast<uint32_t>(-1));
  }
}

}  // namespace edgewise
