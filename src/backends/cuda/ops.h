// One object an operator: it owns its constants on the device and launches its kernels.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/arena.h"
#include "backends/cuda/attention_kernels.h"
#include "backends/cuda/device.h"
#include "backends/cuda/fusion.h"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {

// What the step under way is about. Pointers are the same in every step, so that a captured graph stays good.
struct StepContext {
  cudaStream_t stream = nullptr;
  int tokens = 0;                  // N
  int rows = 0;                    // R
  bool adapters = false;           // some row has one
  float* const* values = nullptr;  // by value id
  std::byte* workspace = nullptr;
  const int32_t* token_ids = nullptr;    // [N]
  const int32_t* positions = nullptr;    // [N]
  const int32_t* context = nullptr;      // [N] tokens known of the row's sequence
  const int32_t* slots = nullptr;        // [N] page * 64 + slot
  const int32_t* logits_rows = nullptr;  // [R]
  const DrawRow* draws = nullptr;        // [R]
  const LogitChange* changes = nullptr;  // of all rows
  const uint64_t* allowed = nullptr;     // masks of all rows
  const uint64_t* masks = nullptr;       // [N]
  const int32_t* pages = nullptr;        // page tables of all sequences
  struct Tiles {
    const AttendTile* tiles = nullptr;
    const int32_t* count = nullptr;
    int most = 0;  // in this step, rounded up
    const PromptTile* prompt_tiles = nullptr;
    int prompt_count = 0;  // in this step, which then is in no graph
  };
  const Tiles* tiles = nullptr;  // [shapes] as BuildContext::tiles_of() numbers them
  size_t shapes = 0;
  const uint32_t* number = nullptr;  // of the step
  bool several_pages = false;        // whether a tile of the step has several
  bool program = false;              // whether the step's program runs it
  bool whole_tiles = false;          // whether each sequence's rows are one tile, of every shape
  bool drawn = false;                // whether some row draws its token, which takes further kernels

  int count(bool of_rows) const { return of_rows ? rows : tokens; }
};

struct DeviceWeights;

// How rows of a sequence become tiles of attention.
struct TileShape {
  int group = 1;        // query heads a key head
  int prompt_rows = 0;  // of a PromptTile; 0: there are none
  bool operator==(const TileShape&) const = default;
};
inline TileShape tile_shape(const KvLayer& layer, int q_heads) {
  const int group = q_heads / layer.kv_heads;
  return {group, attends_on_tensor_cores(layer) ? prompt_queries(layer.head_dim) / group : 0};
}

class CudaOp {
 public:
  virtual ~CudaOp() = default;
  virtual void launch(const StepContext& context) const noexcept = 0;
  // With its neighbours (fusion.h), for the operators that can.
  virtual void launch_fused(const StepContext& context) const noexcept { launch(context); }
  // What is left of kAddRmsNorm when a neighbour did the other half.
  virtual void launch_rest(const StepContext&, Fusions::Rest) const noexcept {}
  virtual const float* weights() const { return nullptr; }                // of a norm
  virtual std::span<const DeviceWeights> matrices() const { return {}; }  // of a Linear
  virtual size_t weight_bytes() const { return 0; }
  virtual size_t workspace() const { return 0; }

  bool of_rows = false;
};

// What operators ask for while an executable is made.
class BuildContext {
 public:
  virtual ~BuildContext() = default;
  virtual const Graph& graph() const = 0;
  virtual const LoadOptions& options() const = 0;
  // A copy on the device, until the executable goes.
  virtual DeviceBytes keep(std::span<const std::byte> bytes) const = 0;
  virtual KvLayer kv_layer(const Node& node) = 0;
  // Number of the tiles for attention of this shape.
  virtual int tiles_of(const TileShape& shape) = 0;
  virtual const Fusions& fusions() const = 0;
  virtual const float* norm_weights(NodeId node) const = 0;  // of a node before this one
  // States of unfinished softmaxes: [slots][q_heads][tile rows][head_dim + 2].
  virtual int partial_slots() const = 0;
  // [slots, kv_heads] counters, zero between steps.
  virtual int32_t* arrival_counters(int kv_heads) = 0;
};

std::unique_ptr<CudaOp> make_op(BuildContext& context, NodeId id);
std::unique_ptr<CudaOp> make_linear_op(const BuildContext& context, NodeId id);
std::unique_ptr<CudaOp> make_attention_op(BuildContext& context, NodeId id);
std::unique_ptr<CudaOp> make_moe_op(const BuildContext& context, const Node& node);
std::unique_ptr<CudaOp> make_row_op(const BuildContext& context, const Node& node);

// What a node's constants take of the device.
size_t constant_bytes(const Graph& graph, const Node& node);
// Input `index` of a node as float32 on the device; empty when it is left out.
DeviceBytes float_constant(const BuildContext& context, const Node& node, size_t index);

}  // namespace edgewise::cuda
