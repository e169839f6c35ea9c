// kAttention: this step's keys and values go to the cache, then rows attend.
#include "backends/cuda/ops.h"
#include "backends/cuda/step_tables.h"

namespace edgewise::cuda {
namespace {

class AttentionOp final : public CudaOp {
 public:
  AttentionOp(BuildContext& context, NodeId id)
      : AttentionOp(context, context.graph().nodes()[static_cast<size_t>(id)]) {
    const auto& heads = *context.fusions().heads[static_cast<size_t>(id)];
    q_path_ = path(context, heads.first);
    k_path_ = path(context, heads.second);
    q_path_.path.heads = call_.q_heads;
    k_path_.path.heads = layer_.kv_heads;
    prepares_ = attends_on_tensor_cores(layer_) && q_path_.cos == k_path_.cos && q_path_.sin == k_path_.sin;
  }
  size_t workspace() const override {
    return slots_ * static_cast<size_t>(call_.q_heads * call_.tile_rows * partial_floats(layer_.head_dim)) *
           sizeof(float);
  }
  void launch(const StepContext& context) const noexcept override {
    append_kv(context.stream, layer_, context.values[k_], context.values[v_], context.slots, context.tokens);
    attend_rows(context, {});
  }
  void launch_fused(const StepContext& context) const noexcept override {
    const FreshHeads heads{q_path_.in(context), k_path_.in(context), context.values[v_], context.slots};
    if (prepares_ && context.whole_tiles) return attend_rows(context, heads);
    prepare_heads(context.stream, layer_, heads, context.tokens, context.values[q_]);
    attend_rows(context, {});
  }

 private:
  AttentionOp(BuildContext& context, const Node& node)
      : q_(node.inputs[0]),
        k_(node.inputs[1]),
        v_(node.inputs[2]),
        out_(node.outputs[0]),
        layer_(context.kv_layer(node)),
        slots_(static_cast<size_t>(context.partial_slots())) {
    call_.q_heads = static_cast<int>(node.integer("q_heads"));
    call_.scale = static_cast<float>(node.number("scale"));
    call_.softcap = static_cast<float>(node.number("softcap", 0.0));
    call_.window = static_cast<int>(node.integer("window", 0));
    const TileShape shape = tile_shape(layer_, call_.q_heads);
    call_.tile_rows = tile_rows(shape.group);
    tiles_ = context.tiles_of(shape);
    call_.arrived = context.arrival_counters(layer_.kv_heads);
  }

  // A path whose values are known when a step runs.
  struct Path {
    HeadPath path;
    ValueId x = kNone;
    ValueId cos = kNone;
    ValueId sin = kNone;
    HeadPath in(const StepContext& context) const {
      HeadPath result = path;
      result.x = context.values[x];
      if (cos != kNone) result.cos = context.values[cos];
      if (sin != kNone) result.sin = context.values[sin];
      return result;
    }
  };
  static Path path(const BuildContext& context, const HeadFusion& fusion) {
    const auto& nodes = context.graph().nodes();
    Path result;
    result.x = fusion.x;
    if (fusion.norm >= 0) {
      result.path.norm = context.norm_weights(fusion.norm);
      result.path.epsilon = static_cast<float>(nodes[static_cast<size_t>(fusion.norm)].number("epsilon"));
    }
    if (fusion.rotary >= 0) {
      const Node& rotary = nodes[static_cast<size_t>(fusion.rotary)];
      result.cos = rotary.inputs[1];
      result.sin = rotary.inputs[2];
      result.path.half = static_cast<int>(rotary.integer("rotary_dim") / 2);
      result.path.interleaved = rotary.integer("interleaved", 0) != 0;
    }
    return result;
  }

  void attend_rows(const StepContext& context, const FreshHeads& heads) const noexcept {
    const StepContext::Tiles& tiles = context.tiles[tiles_];
    AttendCall call = call_;
    call.q = context.values[q_];
    call.heads = heads;
    call.out = context.values[out_];
    call.tiles = tiles.tiles;
    call.tile_count = tiles.count;
    call.most_tiles = tiles.most;
    call.pages = context.pages;
    call.positions = context.positions;
    call.masks = context.masks;
    call.partial = reinterpret_cast<float*>(context.workspace);
    if (tiles.prompt_count > 0) attend_prompts(context.stream, layer_, call, tiles.prompt_tiles, tiles.prompt_count);
    if (tiles.most > 0) attend(context.stream, layer_, call);
  }

  ValueId q_, k_, v_, out_;
  KvLayer layer_;
  AttendCall call_;
  Path q_path_, k_path_;
  bool prepares_ = false;  // attention may take heads as they are
  int tiles_ = 0;
  size_t slots_;
};

}  // namespace

std::unique_ptr<CudaOp> make_attention_op(BuildContext& context, NodeId id) {
  return std::make_unique<AttentionOp>(context, id);
}

}  // namespace edgewise::cuda
