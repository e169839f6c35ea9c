#include "backends/cuda/arena.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace edgewise::cuda {
namespace {

constexpr size_t kMostStaged = size_t{32} << 20;

}  // namespace

DeviceArena::DeviceArena(size_t bytes, const std::string& what, const char* advice) try
    : memory_(rounded(bytes), what.c_str()) {
  clear();
} catch (const Error& error) {
  fail(ErrorKind::kIo, "{}; {}", error.what(), advice);
}

DeviceBytes DeviceArena::take(size_t bytes) {
  check_internal(rounded(bytes) <= left(), "an arena that is too small");
  const DeviceBytes part(memory_.data() + used_, bytes);
  used_ += rounded(bytes);
  return part;
}

void DeviceArena::clear() {
  if (size() == 0) return;
  check_cuda(cudaMemset(memory_.data(), 0, size()), "clear memory");
  check_cuda(cudaStreamSynchronize(nullptr), "clear memory");  // our streams do not wait for that one
}

Uploader::Uploader(size_t most) {
  for (Buffer& buffer : buffers_)
    buffer.memory = PinnedMemory(std::min(most, kMostStaged), "pinned memory for weights");
}

void Uploader::copy(std::span<const std::byte> from, std::byte* to) {
  while (!from.empty()) {
    const Buffer& buffer = buffers_[next_++ % buffers_.size()];
    const size_t bytes = std::min(from.size(), buffer.memory.size());
    check_cuda(cudaEventSynchronize(buffer.free.get()), "copy weights");
    std::memcpy(buffer.memory.data(), from.data(), bytes);
    check_cuda(cudaMemcpyAsync(to, buffer.memory.data(), bytes, cudaMemcpyHostToDevice, stream_.get()), "copy weights");
    check_cuda(cudaEventRecord(buffer.free.get(), stream_.get()), "copy weights");
    from = from.subspan(bytes);
    to += bytes;
  }
}

void Uploader::finish() { check_cuda(cudaStreamSynchronize(stream_.get()), "copy weights"); }

}  // namespace edgewise::cuda
