#include "backends/cuda/kv_memory.h"

#include <algorithm>

#include "backends/kv_scale.h"
#include "backends/memory_plan.h"
#include "base/error.h"

namespace edgewise::cuda {
namespace {

constexpr size_t kMostCopies = 4096;  // at once

KvType kv_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return KvType::kF32;
    case DType::kF16:
      return KvType::kF16;
    case DType::kI8:
      return KvType::kInt8;
    case DType::kF8E4M3:
      return KvType::kF8;
    default:
      return KvType::kBF16;
  }
}

// Of a page, in one layer: its keys, its values, and the scales of each.
std::array<size_t, 4> part_bytes(const Node& node, DType dtype) {
  const auto heads = static_cast<size_t>(node.integer("kv_heads") * kPageTokens);
  const size_t part = heads * byte_size(dtype, static_cast<size_t>(node.integer("head_dim")));
  const size_t scales = kv_is_scaled(dtype) ? heads * sizeof(float) : 0;
  return {part, part, scales, scales};
}

// The attention of each layer, by its number: several may share one layer's cache.
std::map<int64_t, const Node*> cached_layers(const Graph& graph) {
  std::map<int64_t, const Node*> layers;
  for (const Node& node : graph.nodes()) {
    if (node.op == Op::kAttention) layers.emplace(node.integer("layer"), &node);
  }
  return layers;
}

}  // namespace

KvMemory::KvMemory(const Graph& graph, const LoadOptions& options)
    : pages_(static_cast<size_t>(options.kv_pages)),
      copies_host_(kMostCopies * sizeof(DeviceSlotCopy), "pinned memory for copies") {
  const auto layers = cached_layers(graph);
  const size_t bytes = kv_page_bytes(graph, options.kv_dtype) * pages_ + layers.size() * DeviceArena::rounded(1) +
                       DeviceArena::rounded(copies_host_.size());
  arena_ = DeviceArena(bytes, fmt::format("the KV cache's {} pages of {} tokens", pages_, kPageTokens),
                       "build with a smaller --maxKVCacheCapacity or --maxBatchSize, or with --kvDtype int8");
  copies_ = arena_.take(copies_host_.size());
  for (const auto& [number, node] : layers) add_layer(*node, options.kv_dtype);
}

void KvMemory::add_layer(const Node& node, DType dtype) {
  Layer layer;
  layer.part_bytes = part_bytes(node, dtype);
  const auto [part, same, scales, same_scales] = layer.part_bytes;
  const DeviceBytes memory = arena_.take(2 * (part + scales) * pages_);
  layer.begin = memory.data();
  layer.kv.type = kv_type(dtype);
  layer.kv.kv_heads = static_cast<int>(node.integer("kv_heads"));
  layer.kv.head_dim = static_cast<int>(node.integer("head_dim"));
  layer.kv.keys = memory.data();
  layer.kv.values = memory.data() + part * pages_;
  if (scales > 0) {
    layer.kv.key_scales = memory.as<float>(2 * part * pages_);
    layer.kv.value_scales = memory.as<float>((2 * part + scales) * pages_);
  }
  layers_[node.integer("layer")] = layer;
}

// Its keys, values and their scales in every layer, in order.
template <typename Visit>
void KvMemory::visit_page(int32_t page, Visit visit) const {
  for (const auto& [number, layer] : layers_) {
    std::byte* begin = layer.begin;
    for (const size_t bytes : layer.part_bytes) {
      if (bytes > 0) visit(begin + static_cast<size_t>(page) * bytes, bytes);
      begin += bytes * pages_;
    }
  }
}

size_t KvMemory::page_bytes() const {
  size_t bytes = 0;
  visit_page(0, [&](const std::byte*, size_t part) { bytes += part; });
  return bytes;
}

void KvMemory::read_page(int32_t page, std::span<std::byte> to) const {
  visit_page(page, [&](const std::byte* at, size_t bytes) {
    check_cuda(cudaMemcpy(to.data(), at, bytes, cudaMemcpyDeviceToHost), "read a page of the KV cache");
    to = to.subspan(bytes);
  });
}

void KvMemory::write_page(int32_t page, std::span<const std::byte> from) {
  visit_page(page, [&](std::byte* at, size_t bytes) {
    check_cuda(cudaMemcpy(at, from.data(), bytes, cudaMemcpyHostToDevice), "write a page of the KV cache");
    from = from.subspan(bytes);
  });
}

bool KvMemory::copy_slots(cudaStream_t stream, std::span<const SlotCopy> copies) noexcept {
  bool done = true;
  for (size_t first = 0; first < copies.size() && done; first += kMostCopies) {
    const auto some = copies.subspan(first, std::min(kMostCopies, copies.size() - first));
    auto* to = copies_host_.as<DeviceSlotCopy>();
    for (size_t i = 0; i < some.size(); ++i) {
      to[i].from = some[i].from_page * kPageTokens + some[i].from_slot;
      to[i].to = some[i].to_page * kPageTokens + some[i].to_slot;
    }
    done = cudaMemcpyAsync(copies_.data(), to, some.size() * sizeof(DeviceSlotCopy), cudaMemcpyHostToDevice, stream) ==
           cudaSuccess;
    for (const auto& [number, layer] : layers_)
      copy_kv_slots(stream, layer.kv, copies_.as<const DeviceSlotCopy>(), static_cast<int>(some.size()));
    done = done && cudaStreamSynchronize(stream) == cudaSuccess;  // the list is used again
  }
  return done;
}

}  // namespace edgewise::cuda
