// Memory of the GPU in few large pieces, all of them taken when an engine is loaded.
#pragma once

#include <array>
#include <span>

#include "backends/cuda/device.h"

namespace edgewise::cuda {

// A part of an arena.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  DeviceBytes(std::byte* data, size_t size) : data_(data), size_(size) {}
  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as(size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(data_ + byte_offset);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// One allocation, handed out from its beginning on. It is zeros at first.
class DeviceArena {
 public:
  // What a part takes of it.
  static size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

  DeviceArena() = default;
  // Throws Error(kIo) with the numbers, and `advice` for whoever lacks the memory.
  DeviceArena(size_t bytes, const std::string& what, const char* advice);
  DeviceBytes take(size_t bytes);
  void clear();
  size_t size() const { return memory_.size(); }
  size_t left() const { return memory_.size() - used_; }

 private:
  DeviceMemory memory_;
  size_t used_ = 0;
};

// Bytes of the host to the device through two pinned buffers: one is filled while the other travels.
class Uploader {
 public:
  // `most`: bytes of the largest piece, or more.
  explicit Uploader(size_t most);
  // Back before the bytes have arrived; they may go away all the same.
  void copy(std::span<const std::byte> from, std::byte* to);
  void finish();

 private:
  struct Buffer {
    PinnedMemory memory;
    Event free;
  };
  Stream stream_;
  std::array<Buffer, 2> buffers_;
  size_t next_ = 0;
};

}  // namespace edgewise::cuda
