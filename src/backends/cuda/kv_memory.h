// The KV cache on the device: the pages of all layers in one allocation.
#pragma once

#include <array>
#include <map>

#include "backends/backend.h"
#include "backends/cuda/arena.h"
#include "backends/cuda/attention_kernels.h"

namespace edgewise::cuda {

class KvMemory {
 public:
  KvMemory(const Graph& graph, const LoadOptions& options);
  const KvLayer& layer(int64_t number) const { return layers_.at(number).kv; }
  size_t size() const { return arena_.size(); }
  void clear() { arena_.clear(); }
  // As Executable has them.
  size_t page_bytes() const;
  void read_page(int32_t page, std::span<std::byte> to) const;
  void write_page(int32_t page, std::span<const std::byte> from);
  // False when the device fails.
  bool copy_slots(cudaStream_t stream, std::span<const SlotCopy> copies) noexcept;

 private:
  struct Layer {
    KvLayer kv;
    std::byte* begin = nullptr;
    std::array<size_t, 4> part_bytes = {};  // of a page: keys, values, their scales
  };
  void add_layer(const Node& node, DType dtype);
  template <typename Visit>
  void visit_page(int32_t page, Visit visit) const;

  size_t pages_;
  PinnedMemory copies_host_;
  DeviceArena arena_;
  DeviceBytes copies_;
  std::map<int64_t, Layer> layers_;
};

}  // namespace edgewise::cuda
