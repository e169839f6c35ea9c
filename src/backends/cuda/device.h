// CUDA's resources with owners, and its errors as ours.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <span>

namespace edgewise::cuda {

// Throws Error(kIo) with what was tried and what the driver says.
void check_cuda(cudaError_t result, const char* what);

// Why there is no GPU to use, or nothing. Asked once.
const char* why_no_device();

struct DeviceInfo {
  int multiprocessors = 0;
  int capability = 0;           // 90 for 9.0
  size_t shared_per_block = 0;  // bytes a block may ask for
};
const DeviceInfo& device_info();

struct DeviceFree {
  void operator()(std::byte* p) const noexcept { cudaFree(p); }
};
struct HostFree {
  void operator()(std::byte* p) const noexcept { cudaFreeHost(p); }
};

// Bytes on the device, or pinned ones on the host.
template <typename Free>
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, const char* what);
  std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <typename T>
  T* as(size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(data_.get() + byte_offset);
  }

 private:
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};
// How many of them have been allocated so far, of either kind.
int64_t memory_count() noexcept;
using DeviceMemory = Memory<DeviceFree>;
using PinnedMemory = Memory<HostFree>;

class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() { check_cuda(cudaEventCreate(&event_), "create an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

struct GraphDestroy {
  void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
};
using StepGraph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, GraphDestroy>;

// A copy of host bytes on the device, padded to whole 16-byte words with zeros.
DeviceMemory upload(std::span<const std::byte> bytes, const char* what);

}  // namespace edgewise::cuda
