#include "backends/cuda/device.h"

#include <atomic>
#include <vector>

#include "base/error.h"

namespace edgewise::cuda {

void check_cuda(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return;
  fail(ErrorKind::kIo, "the GPU could not {}: {} ({})", what, cudaGetErrorString(result), cudaGetErrorName(result));
}

const char* why_no_device() {
  static const char* const why = []() -> const char* {
    int count = 0;
    const cudaError_t result = cudaGetDeviceCount(&count);
    if (result != cudaSuccess) return cudaGetErrorString(result);
    if (count == 0) return "no CUDA-capable device is detected";
    return device_info().capability < 80 ? "the GPU is older than compute capability 8.0" : nullptr;
  }();
  return why;
}

const DeviceInfo& device_info() {
  static const DeviceInfo info = [] {
    int device = 0;
    check_cuda(cudaGetDevice(&device), "be found");
    const auto attribute = [&](cudaDeviceAttr name) {
      int value = 0;
      check_cuda(cudaDeviceGetAttribute(&value, name, device), "be asked for its properties");
      return value;
    };
    DeviceInfo result;
    result.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
    result.capability =
        10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    result.shared_per_block = static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    return result;
  }();
  return info;
}

namespace {

std::atomic<int64_t> g_count{0};

cudaError_t allocate(void** p, size_t bytes, DeviceFree) { return cudaMalloc(p, bytes); }
cudaError_t allocate(void** p, size_t bytes, HostFree) { return cudaMallocHost(p, bytes); }

}  // namespace

template <typename Free>
Memory<Free>::Memory(size_t bytes, const char* what) : size_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  const cudaError_t result = allocate(&memory, bytes, Free());
  if (result == cudaErrorMemoryAllocation) {
    size_t free = 0;
    size_t total = 0;
    cudaGetLastError();  // an allocation that fails leaves the context whole
    cudaMemGetInfo(&free, &total);
    fail(ErrorKind::kIo, "{} take {:.2f} GB, and of the GPU's {:.2f} GB {:.2f} are free", what,
         static_cast<double>(bytes) / 1e9, static_cast<double>(total) / 1e9, static_cast<double>(free) / 1e9);
  }
  check_cuda(result, what);
  data_.reset(static_cast<std::byte*>(memory));
  ++g_count;
}

int64_t memory_count() noexcept { return g_count; }

template class Memory<DeviceFree>;
template class Memory<HostFree>;

DeviceMemory upload(std::span<const std::byte> bytes, const char* what) {
  DeviceMemory memory((bytes.size() + 15) / 16 * 16, what);
  if (bytes.empty()) return memory;
  check_cuda(cudaMemset(memory.data(), 0, memory.size()), "clear memory");
  check_cuda(cudaMemcpy(memory.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "copy weights");
  check_cuda(cudaStreamSynchronize(cudaStreamLegacy), "copy weights");  // which no other stream waits for
  return memory;
}

}  // namespace edgewise::cuda
