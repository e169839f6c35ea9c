// From a graph to the operators of a step's program: what each node becomes, or that the graph is not one for it.
#include <algorithm>
#include <array>

#include "backends/cuda/step_program.h"
#include "backends/cuda/step_shapes.h"

namespace edgewise::cuda {
namespace {

using Part = StepProgram::Part;

constexpr int kMostGroup = 16;  // query heads a key head

// A value as the kernel has it.
struct Flow {
  enum Kind { kNowhere, kPlain, kPackets, kNormed };
  Kind kind = kNowhere;
  int op = -1;       // that sends the packets
  int part = 0;      // of its outputs
  NodeId norm = -1;  // kNormed: of the value `base`
  ValueId base = kNone;
  bool of_rows = false;
};

}  // namespace

class StepPlanner {
 public:
  StepPlanner(BuildContext& context, const std::vector<std::unique_ptr<CudaOp>>& ops)
      : context_(context),
        graph_(context.graph()),
        ops_(ops),
        program_(new StepProgram()),
        shapes_(device_info().multiprocessors),
        flows_(graph_.values().size()),
        uses_(graph_.use_counts()) {}

  std::unique_ptr<StepProgram> plan() {
    if (!find_needed()) return nullptr;
    for (size_t i = 0; i <= head_; ++i) {
      if (program_->parts_[i] != Part::kNeedless && !visit(static_cast<NodeId>(i))) return nullptr;
    }
    if (!finish()) return nullptr;
    return std::move(program_);
  }

 private:
  // An operator while its shape is not yet chosen.
  struct Draft {
    NodeId node = -1;
    bool paired = false;
    int keep_for = -1;  // operator with the residual
  };

  const Node& node(NodeId id) const { return graph_.nodes()[static_cast<size_t>(id)]; }
  Flow& flow(ValueId id) { return flows_[static_cast<size_t>(id)]; }
  StepOp& op(int index) { return program_->ops_[static_cast<size_t>(index)]; }

  // What the first output needs, up to the last Linear on its way; what comes behind that is for other kernels.
  bool find_needed() {
    const size_t count = graph_.nodes().size();
    program_->parts_.assign(count, Part::kNeedless);
    std::vector<bool> wanted(graph_.values().size());
    wanted[static_cast<size_t>(graph_.outputs().at(0))] = true;
    head_ = count;
    for (size_t i = count; i-- > 0;) {
      const Node& n = graph_.nodes()[i];
      const bool needed = std::ranges::any_of(n.outputs, [&](ValueId id) { return wanted[static_cast<size_t>(id)]; });
      if (!needed) continue;
      if (head_ == count && n.op == Op::kLinear) head_ = i;
      program_->parts_[i] = head_ == count ? Part::kAfter : Part::kInside;
      for (const ValueId id : n.inputs) {
        if (id != kNone) wanted[static_cast<size_t>(id)] = true;
      }
    }
    return head_ < count && graph_.nodes()[head_].outputs.size() == 1;
  }

  bool visit(NodeId id) {
    const Node& n = node(id);
    if (context_.fusions().in_attention[static_cast<size_t>(id)]) return true;
    switch (n.op) {
      case Op::kLinear:
        return visit_linear(id);
      case Op::kAttention:
        return visit_attention(id);
      case Op::kSwiGlu:
      case Op::kGeGlu:
        return visit_gate(n);
      case Op::kRmsNorm:
        return visit_norm(id, n.inputs[0], n.outputs[0]);
      case Op::kAdd:
      case Op::kAddRmsNorm:
        if (visit_plain(id)) return true;
        return visit_sum(n) && (n.op == Op::kAdd || visit_norm(id, n.outputs[0], n.outputs[1]));
      case Op::kSelectRows:
        flow(n.outputs[0]) = flow(n.inputs[0]);
        flow(n.outputs[0]).of_rows = true;
        return flow(n.inputs[0]).kind == Flow::kPackets;
      default:
        return visit_plain(id);
    }
  }

  // What depends on nothing inside runs before, as it always does.
  bool visit_plain(NodeId id) {
    const Node& n = node(id);
    const bool plain = std::ranges::all_of(n.inputs, [&](ValueId input) {
      return input == kNone || graph_.value(input).producer < 0 || flow(input).kind == Flow::kPlain;
    });
    if (!plain) return false;
    program_->parts_[static_cast<size_t>(id)] = Part::kBefore;
    for (const ValueId output : n.outputs) flow(output).kind = Flow::kPlain;
    return true;
  }

  bool visit_norm(NodeId id, ValueId x, ValueId out) {
    const Flow from = flow(x);
    if (from.kind != Flow::kPlain && from.kind != Flow::kPackets) return false;
    Flow& to = flow(out);
    to = from;
    to.kind = Flow::kNormed;
    to.norm = id;
    to.base = x;
    return true;
  }

  bool visit_linear(NodeId id) {
    const Node& n = node(id);
    if (!context_.fusions().linears[static_cast<size_t>(id)] || n.outputs.size() > size_t{kMostStepParts}) return false;
    const Flow x = flow(n.inputs[0]);
    if (x.kind == Flow::kNowhere) return false;
    if (x.of_rows && static_cast<size_t>(id) != head_) return false;
    const int number = static_cast<int>(program_->ops_.size());
    StepOp next;
    next.of_rows = x.of_rows;
    next.k = static_cast<int>(ops_[static_cast<size_t>(id)]->matrices()[0].format.k);
    if (next.k % 8 != 0) return false;  // threads take columns by eight, two of them
    if (x.kind == Flow::kNormed) {
      next.norm = context_.norm_weights(x.norm);
      next.epsilon = static_cast<float>(node(x.norm).number("epsilon"));
      kept_ = x.base;
      kept_by_ = number;
    }
    const Flow& base = x.kind == Flow::kNormed ? flow(x.base) : x;
    if (base.part != 0) return false;
    if (base.op < 0) {
      const ValueId plain = x.kind == Flow::kNormed ? x.base : n.inputs[0];
      if (number > 0 || x.of_rows) return false;  // another operator's rows would have to wait for it
      program_->plain_ = plain;
    } else if (base.op != number - 1) {
      return false;  // packets are numbered by the operator before
    }
    program_->ops_.push_back(next);
    program_->nodes_.push_back(static_cast<size_t>(id));
    drafts_.push_back({id});
    for (size_t i = 0; i < n.outputs.size(); ++i) {
      Flow& out = flow(n.outputs[i]);
      out.kind = Flow::kPackets;
      out.op = number;
      out.part = static_cast<int>(i);
      out.of_rows = x.of_rows;
    }
    return true;
  }

  bool visit_gate(const Node& n) {
    const Flow gate = flow(n.inputs[0]);
    const Flow up = flow(n.inputs[1]);
    const bool fits = gate.kind == Flow::kPackets && up.kind == Flow::kPackets && gate.op == up.op &&
                      gate.op == static_cast<int>(program_->ops_.size()) - 1 && gate.part == 0 && up.part == 1;
    if (!fits || uses_[static_cast<size_t>(n.inputs[0])] != 1 || uses_[static_cast<size_t>(n.inputs[1])] != 1)
      return false;
    Draft& draft = drafts_[static_cast<size_t>(gate.op)];
    if (node(draft.node).outputs.size() != 2) return false;
    draft.paired = true;
    if (n.op == Op::kGeGlu && n.text("approximate", "none") != "tanh") return false;
    op(gate.op).gate = n.op == Op::kSwiGlu ? Source::kSwiGlu : Source::kGeGluTanh;
    flow(n.outputs[0]) = gate;
    return true;
  }

  // A Linear's only output and what the operator before it has kept.
  bool visit_sum(const Node& n) {
    const int last = static_cast<int>(program_->ops_.size()) - 1;
    const auto is_product = [&](ValueId id) {
      const Flow& s = flow(id);
      return s.kind == Flow::kPackets && s.op == last && uses_[static_cast<size_t>(id)] == 1 && !s.of_rows &&
             node(drafts_[static_cast<size_t>(last)].node).op == Op::kLinear &&
             node(drafts_[static_cast<size_t>(last)].node).outputs.size() == 1 && !op(last).residual;
    };
    const ValueId y = is_product(n.inputs[0]) ? n.inputs[0] : n.inputs[1];
    const ValueId r = y == n.inputs[0] ? n.inputs[1] : n.inputs[0];
    if (!is_product(y) || r != kept_ || kept_by_ == last) return false;
    op(last).residual = true;
    drafts_[static_cast<size_t>(kept_by_)].keep_for = last;
    flow(n.outputs[0]) = flow(y);
    return true;
  }

  bool visit_attention(NodeId id) {
    const Node& n = node(id);
    const auto& heads = *context_.fusions().heads[static_cast<size_t>(id)];
    const int last = static_cast<int>(program_->ops_.size()) - 1;
    const std::array<ValueId, 3> inputs = {heads.first.x, heads.second.x, n.inputs[2]};
    for (int i = 0; i < 3; ++i) {
      const Flow& s = flow(inputs[static_cast<size_t>(i)]);
      if (s.kind != Flow::kPackets || s.op != last || s.part != i) return false;
    }
    StepOp next;
    next.is_attention = true;
    next.layer = context_.kv_layer(n);
    next.q_heads = static_cast<int32_t>(n.integer("q_heads"));
    next.window = static_cast<int32_t>(n.integer("window", 0));
    next.scale = static_cast<float>(n.number("scale"));
    next.softcap = static_cast<float>(n.number("softcap", 0.0));
    next.q_path = path(heads.first);
    next.k_path = path(heads.second);
    const int group = next.q_heads / next.layer.kv_heads;
    next.group = group;
    next.tiles = context_.tiles_of(tile_shape(next.layer, next.q_heads));
    const bool alike = next.q_path.half == next.k_path.half && next.q_path.interleaved == next.k_path.interleaved &&
                       rotary_inputs(heads.first) == rotary_inputs(heads.second);
    if (!alike || next.tiles >= kMostStepTiles || group > kMostGroup || !attends_on_tensor_cores(next.layer) ||
        next.layer.head_dim > kMostStepHeadDim)
      return false;
    const std::vector<ValueId> angles = rotary_inputs(heads.first);
    if (!std::ranges::all_of(angles, [&](ValueId value) { return flow(value).kind == Flow::kPlain; })) return false;
    if (!angles.empty()) program_->angles_[program_->ops_.size()] = {angles[0], angles[1]};
    int& kv_heads = program_->call_.kv_heads[next.tiles];
    if (kv_heads != 0 && kv_heads != next.layer.kv_heads) return false;  // tiles are given out once
    kv_heads = next.layer.kv_heads;
    program_->most_group_ = std::max(program_->most_group_, group);
    program_->most_kv_heads_ = std::max(program_->most_kv_heads_, next.layer.kv_heads);
    program_->most_head_dim_ = std::max(program_->most_head_dim_, next.layer.head_dim);
    program_->call_.kv_type = next.layer.type;
    const bool is_16_bits = next.layer.type == KvType::kF16 || next.layer.type == KvType::kBF16;
    program_->value_bytes_ = is_16_bits ? 2 : 1;
    if (next.layer.head_dim * program_->value_bytes_ % 16 != 0)
      return false;  // rows of the cache travel in words of 16 bytes
    program_->ops_.push_back(next);
    program_->nodes_.push_back(static_cast<size_t>(id));
    drafts_.push_back({id});
    Flow& out = flow(n.outputs[0]);
    out.kind = Flow::kPackets;
    out.op = last + 1;
    return true;
  }

  std::vector<ValueId> rotary_inputs(const HeadFusion& fusion) const {
    if (fusion.rotary < 0) return {};
    const Node& rotary = node(fusion.rotary);
    return {rotary.inputs[1], rotary.inputs[2]};
  }
  HeadPath path(const HeadFusion& fusion) const {
    HeadPath result;
    if (fusion.norm >= 0) {
      result.norm = context_.norm_weights(fusion.norm);
      result.epsilon = static_cast<float>(node(fusion.norm).number("epsilon"));
    }
    if (fusion.rotary >= 0) {
      result.half = static_cast<int>(node(fusion.rotary).integer("rotary_dim") / 2);
      result.interleaved = node(fusion.rotary).integer("interleaved", 0) != 0;
    }
    return result;
  }

  // ---- with all operators known

  bool finish() {
    const auto count = static_cast<int>(program_->ops_.size());
    if (count == 0 || program_->nodes_.back() != head_ || !ends_with_head()) return false;
    for (int i = 0; i < count; ++i) {
      if (!(op(i).is_attention ? finish_attention(i) : finish_linear(i))) return false;
    }
    StepCall& call = program_->call_;
    for (int i = 0; i < count; ++i) {
      const int keep_for = drafts_[static_cast<size_t>(i)].keep_for;
      if (keep_for < 0) continue;
      op(i).keep = op(keep_for).shape;
      const int blocks = shapes_.plan(op(i).keep).most_blocks;
      call.kept_columns = std::max(call.kept_columns, blocks * static_cast<int>(kBlockRows));
    }
    for (int i = 0; i + 1 < count; ++i) {
      op(i).next_norm = op(i + 1).norm;
      op(i).next_k = op(i + 1).k;
    }
    program_->result_ = node(static_cast<NodeId>(head_)).outputs[0];
    shapes_.fill(call);
    call.stage_bytes = (shapes_.most_stage_bytes() + 127) / 128 * 128;
    list_linears(call);
    call.numbers = count | 1;
    program_->most_columns_ = shapes_.most_columns();
    program_->memory_ = shapes_.take_memory();
    return program_->fits();
  }

  // Whether what comes behind reads nothing of the inside but the head's result.
  bool ends_with_head() const {
    for (size_t i = head_ + 1; i < program_->parts_.size(); ++i) {
      if (program_->parts_[i] != Part::kAfter) continue;
      for (const ValueId id : graph_.nodes()[i].inputs) {
        const NodeId maker = id == kNone ? -1 : graph_.value(id).producer;
        if (maker >= 0 && maker < static_cast<NodeId>(head_) &&
            program_->parts_[static_cast<size_t>(maker)] == Part::kInside)
          return false;
      }
    }
    return true;
  }

  bool finish_linear(int i) {
    const Draft& draft = drafts_[static_cast<size_t>(i)];
    const bool is_head = i + 1 == static_cast<int>(program_->ops_.size());
    const auto matrices = ops_[static_cast<size_t>(draft.node)]->matrices();
    const int shape = shapes_.add(matrices, {draft.paired, op(i).norm != nullptr, is_head});
    if (shape < 0) return false;
    op(i).shape = shape;
    op(i).out = shapes_.next_packets(shape);
    for (size_t part = 0; part < matrices.size(); ++part) {
      op(i).parts[part] = matrices[part].memory.data();
      op(i).bias[part] = matrices[part].bias.as<const float>();
    }
    if (i > 0) op(i).in = op(i - 1).out;
    return true;
  }

  bool finish_attention(int i) {
    StepOp& attention = op(i);
    const StepOp& before = op(i - 1);
    attention.in = before.out;
    for (int part = 0; part < 3; ++part)
      attention.columns[part] = shapes_.shape(before.shape).first_block[part] * static_cast<int32_t>(kBlockRows);
    attention.out = shapes_.attention_packets(attention.q_heads * attention.layer.head_dim);
    attention.partial = shapes_.partial_packets(std::min(context_.partial_slots(), kMostDecodeTokens * kMostSplits),
                                                int64_t{attention.q_heads} * (attention.layer.head_dim + 2));
    return true;
  }

  void list_linears(StepCall& call) {
    std::vector<StepLinear> linears;
    for (const StepOp& o : program_->ops_) {
      if (o.is_attention) continue;
      StepLinear linear;
      std::ranges::copy(o.parts, linear.parts);
      linear.shape = o.shape;
      linears.push_back(linear);
    }
    call.linears = shapes_.keep<StepLinear>(linears, "weights of a step");
  }

  BuildContext& context_;
  const Graph& graph_;
  const std::vector<std::unique_ptr<CudaOp>>& ops_;
  std::unique_ptr<StepProgram> program_;
  StepShapes shapes_;
  std::vector<Flow> flows_;
  std::vector<int> uses_;
  size_t head_ = 0;
  std::vector<Draft> drafts_;
  ValueId kept_ = kNone;
  int kept_by_ = -1;
};

std::unique_ptr<StepProgram> StepProgram::make(BuildContext& context, const std::vector<std::unique_ptr<CudaOp>>& ops) {
  // For its bulk copies, and its ring: small GPUs have half of that memory a block.
  if (device_info().capability < 90 || device_info().shared_per_block < kMostStepShared + kStaticStepShared)
    return nullptr;
  return StepPlanner(context, ops).plan();
}

}  // namespace edgewise::cuda
