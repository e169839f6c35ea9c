#include "backends/cuda/step_program.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <cstring>
#include <map>

#include "backends/cuda/step_tables.h"
#include "backends/cuda/weights.h"

namespace edgewise::cuda {
namespace {

using Part = StepProgram::Part;

constexpr int kMostGroup = 16;         // query heads a key head
constexpr int kMostColumnsOfX = 5120;  // of four tokens, in shared memory
// Where whole blocks give every multiprocessor almost the same, sums need not be joined.
constexpr double kEvenEnough = 0.97;

// A value as the kernel has it.
struct Flow {
  enum Kind { kNowhere, kPlain, kPackets, kNormed };
  Kind kind = kNowhere;
  int op = -1;            // that sends the packets
  int part = 0;           // of its outputs
  NodeId norm = -1;       // kNormed: of the value `base`
  ValueId base = kNone;
  bool of_rows = false;
};

}  // namespace

namespace {

BlockWarps warps_of(const StepShare& share, int block) {
  BlockWarps result;
  for (int w = kStepWarps; w-- > 0;) {
    if (block < share.first[w] || block > share.last[w]) continue;
    result.warps = static_cast<uint8_t>(result.warps | 1 << w);
    result.first = static_cast<uint8_t>(w);
    result.index = static_cast<uint16_t>(block - share.first[w]);
  }
  return result;
}

}  // namespace

SharePlan share_out(int blocks, int chunks, int multiprocessors, int slices, int whole) {
  SharePlan plan;
  plan.used.assign(static_cast<size_t>(blocks), 0);
  plan.shares.resize(static_cast<size_t>(multiprocessors));
  const int in_slice = multiprocessors / slices;
  std::vector<std::vector<int>> contributors(static_cast<size_t>(slices), std::vector<int>(static_cast<size_t>(blocks)));
  for (int i = 0; i < in_slice * slices; ++i) {
    StepShare& share = plan.shares[static_cast<size_t>(i)];
    const int slice = i / in_slice;
    const int64_t number = i % in_slice;
    share.chunk_begin = chunks * slice / slices;
    share.chunk_end = chunks * (slice + 1) / slices;
    const int64_t width = share.chunk_end - share.chunk_begin;
    const auto boundary = [&](int64_t n) {
      if (whole == 0) return blocks * width * n / in_slice;
      return blocks / whole * n / in_slice * whole * width;
    };
    const int64_t begin = boundary(number);
    const int64_t end = boundary(number + 1);
    for (int w = 0; w <= kStepWarps; ++w)
      share.warps[w] = static_cast<uint32_t>(begin + (end - begin) * w / kStepWarps);
    for (int w = 0; w < kStepWarps; ++w) {
      share.first[w] = static_cast<int32_t>(share.warps[w] / width);
      const bool any = share.warps[w + 1] > share.warps[w];
      share.last[w] = any ? static_cast<int32_t>((share.warps[w + 1] - 1) / width) : share.first[w] - 1;
      plan.most_sums = std::max(plan.most_sums, share.last[w] - share.first[w] + 1);
    }
    if (end == begin) continue;
    const auto last = static_cast<int>((end - 1) / width);
    share.blocks = last - share.first[0] + 1;
    share.words_at = static_cast<int32_t>(plan.block_warps.size());
    for (int b = share.first[0]; b <= last; ++b) plan.block_warps.push_back(warps_of(share, b));
    plan.most_blocks = std::max(plan.most_blocks, share.blocks);
    auto& of_slice = contributors[static_cast<size_t>(slice)];
    share.first_slot = of_slice[static_cast<size_t>(share.first[0])];
    for (int b = share.first[0]; b <= last; ++b) plan.slots = std::max(plan.slots, ++of_slice[static_cast<size_t>(b)]);
  }
  // So far slots are counted within a slice.
  for (int i = 0; i < in_slice * slices; ++i) {
    StepShare& share = plan.shares[static_cast<size_t>(i)];
    share.slot = i / in_slice * plan.slots;
    share.first_slot += share.slot;
  }
  for (int slice = 0; slice < slices; ++slice) {
    for (int b = 0; b < blocks; ++b) {
      const int count = contributors[static_cast<size_t>(slice)][static_cast<size_t>(b)];
      plan.used[static_cast<size_t>(b)] |= ((uint32_t{1} << count) - 1) << (slice * plan.slots);
    }
  }
  plan.slots *= slices;
  return plan;
}

class StepPlanner {
 public:
  StepPlanner(BuildContext& context, const std::vector<std::unique_ptr<CudaOp>>& ops)
      : context_(context),
        graph_(context.graph()),
        ops_(ops),
        program_(new StepProgram()),
        flows_(graph_.values().size()),
        uses_(graph_.use_counts()) {}

  std::unique_ptr<StepProgram> plan() {
    program_->multiprocessors_ = device_info().multiprocessors;
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
    Flow x;
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
    if (x.kind == Flow::kNormed) {
      next.norm = context_.norm_weights(x.norm);
      next.epsilon = static_cast<float>(node(x.norm).number("epsilon"));
      kept_ = x.base;
      kept_by_ = number;
    }
    const Flow& base = x.kind == Flow::kNormed ? flow(x.base) : x;
    if (base.op < 0) {
      const ValueId plain = x.kind == Flow::kNormed ? x.base : n.inputs[0];
      if (number > 0 || x.of_rows) return false;  // another operator's rows would have to wait for it
      program_->plain_ = plain;
    } else if (base.op != number - 1) {
      return false;  // packets are numbered by the operator before
    }
    program_->ops_.push_back(next);
    program_->nodes_.push_back(static_cast<size_t>(id));
    drafts_.push_back({id, x, false, -1});
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
    if (!fits || uses_[static_cast<size_t>(n.inputs[0])] != 1 || uses_[static_cast<size_t>(n.inputs[1])] != 1) return false;
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
    next.tiles = context_.tiles_of(group);
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
    const bool is_16_bits = next.layer.type == KvType::kF16 || next.layer.type == KvType::kBF16;
    program_->value_bytes_ = is_16_bits ? 2 : 1;
    if (next.layer.head_dim * program_->value_bytes_ % 16 != 0) return false;  // bulk copies take whole words
    program_->ops_.push_back(next);
    program_->nodes_.push_back(static_cast<size_t>(id));
    drafts_.push_back({id, {}, false, -1});
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

  // ---- shapes, and memory

  struct ShapeMemory {
    StepShape shape;
    SharePlan plan;
    const uint32_t* used = nullptr;
    std::array<uint64_t*, 2> packets = {};
    int uses = 0;
  };

  template <typename T>
  T* keep(std::span<const T> values, const char* what) {
    program_->memory_.push_back(upload(std::as_bytes(values), what));
    return program_->memory_.back().template as<T>();
  }
  uint64_t* packets(size_t count) {
    program_->memory_.emplace_back(count * sizeof(uint64_t), "packets");
    check_cuda(cudaMemset(program_->memory_.back().data(), 0, count * sizeof(uint64_t)), "clear packets");
    return program_->memory_.back().as<uint64_t>();
  }

  StepShape shape_of(const Draft& draft) const {
    const auto matrices = ops_[static_cast<size_t>(draft.node)]->matrices();
    const WeightFormat& format = matrices[0].format;
    StepShape shape;
    shape.encoding = format.encoding;
    shape.scaling = format.scaling;
    shape.zeros = format.zeros;
    shape.paired = draft.paired;
    shape.chunks = static_cast<int32_t>(format.chunks());
    shape.chunk_bytes = static_cast<int32_t>(format.chunk_bytes());
    shape.scale_columns = static_cast<int32_t>(format.scale_columns());
    const int64_t unit = format.scaling == Scaling::kLanes ? 16 : kChunkColumns;
    shape.scale_magic = static_cast<uint32_t>((1 << 20) / std::max<int64_t>(format.block / unit, 1) + 1);
    shape.stage_chunks = kStageWeights / shape.chunk_bytes;
    while (shape.stage_chunks > 1 && stage_bytes(format, shape.stage_chunks) > kStageBytes) --shape.stage_chunks;
    std::ranges::fill(shape.first_block, INT_MAX);
    for (size_t i = 0; i < matrices.size(); ++i) {
      const WeightFormat& f = matrices[i].format;
      shape.first_block[i] = shape.blocks;
      shape.rows[i] = static_cast<int32_t>(f.n);
      shape.blocks += static_cast<int32_t>(f.row_blocks());
      shape.scales_at[i] = static_cast<uint32_t>(f.scales_offset() / 256);
      shape.zeros_at[i] = static_cast<uint32_t>(f.zeros_offset() / 256);
      shape.factors_at[i] = static_cast<uint32_t>(f.factors_offset() / 256);
    }
    return shape;
  }
  // Of so many chunks with the scales that may go with them.
  static int stage_bytes(const WeightFormat& format, int chunks) {
    const bool row = format.scaling == Scaling::kRow;
    const int64_t columns = row ? 1 : (chunks * kChunkColumns - 1) / format.block + 2;
    const int64_t scale = row ? 0 : format.scaling == Scaling::kChunks ? 4 : 2;
    return static_cast<int>(chunks * format.chunk_bytes() +
                            columns * kBlockRows * (scale + (format.zeros ? 2 : 0)));
  }

  // The shape's number, or -1 where it does not fit.
  int add_shape(const Draft& draft, const StepOp& step_op, bool is_head) {
    const StepShape shape = shape_of(draft);
    if (stage_bytes(ops_[static_cast<size_t>(draft.node)]->matrices()[0].format, shape.stage_chunks) > kStageBytes)
      return -1;
    const int multiprocessors = program_->multiprocessors_;
    for (size_t i = 0; i < shapes_.size(); ++i) {
      if (std::memcmp(&shapes_[i].shape, &shape, sizeof(shape)) == 0 && heads_[i] == is_head) return static_cast<int>(i);
    }
    int slices = 1;
    const auto columns = [&] { return (shape.chunks + slices - 1) / slices * static_cast<int>(kChunkColumns); };
    while (columns() > kMostColumnsOfX) ++slices;
    if (slices > 1 && (step_op.norm != nullptr || draft.paired || is_head)) return -1;
    if (draft.paired && (shape.first_block[1] * 2 != shape.blocks || shape.rows[0] != shape.rows[1])) return -1;
    int whole = draft.paired ? 2 : is_head ? 1 : 0;
    if (whole == 0) {
      const double share = static_cast<double>(shape.blocks) / (multiprocessors / slices);
      if (share / std::ceil(share) >= kEvenEnough) whole = 1;
    }
    ShapeMemory memory;
    memory.shape = shape;
    memory.plan = share_out(shape.blocks, shape.chunks, multiprocessors, slices, whole);
    if (memory.plan.slots > 31 || shapes_.size() == size_t{kMostShapes}) return -1;
    if (memory.plan.slots > 1) memory.used = keep<uint32_t>(memory.plan.used, "slots of packets");
    const size_t words = static_cast<size_t>(memory.plan.slots * kMostDecodeTokens * out_columns(shape));
    if (!is_head) memory.packets = {packets(words), packets(words)};
    program_->most_columns_ = std::max(program_->most_columns_, columns());
    program_->call_.most_sums = std::max(program_->call_.most_sums, memory.plan.most_sums);
    program_->call_.most_blocks = std::max(program_->call_.most_blocks, memory.plan.most_blocks);
    shapes_.push_back(std::move(memory));
    heads_.push_back(is_head);
    return static_cast<int>(shapes_.size() - 1);
  }
  static int out_columns(const StepShape& shape) {
    return (shape.paired ? shape.blocks / 2 : shape.blocks) * static_cast<int>(kBlockRows);
  }

  bool finish() {
    const auto count = static_cast<int>(program_->ops_.size());
    if (count == 0 || program_->nodes_.back() != head_) return false;
    for (int i = 0; i < count; ++i) {
      if (!(op(i).is_attention ? finish_attention(i) : finish_linear(i))) return false;
    }
    for (int i = 0; i < count; ++i) {
      const int keep_for = drafts_[static_cast<size_t>(i)].keep_for;
      if (keep_for < 0) continue;
      op(i).keep = op(keep_for).shape;
      const int blocks = shapes_[static_cast<size_t>(op(i).keep)].plan.most_blocks;
      program_->call_.kept_columns = std::max(program_->call_.kept_columns, blocks * static_cast<int>(kBlockRows));
    }
    for (int i = 0; i + 1 < count; ++i) {
      op(i).next_norm = op(i + 1).norm;
      op(i).next_k = op(i + 1).k;
    }
    program_->result_ = node(static_cast<NodeId>(head_)).outputs[0];
    fill_call();
    return true;
  }

  bool finish_linear(int i) {
    const Draft& draft = drafts_[static_cast<size_t>(i)];
    const bool is_head = i + 1 == static_cast<int>(program_->ops_.size());
    const int shape = add_shape(draft, op(i), is_head);
    if (shape < 0) return false;
    op(i).shape = shape;
    ShapeMemory& memory = shapes_[static_cast<size_t>(shape)];
    op(i).out = {memory.packets[static_cast<size_t>(memory.uses++ % 2)], memory.used, out_columns(memory.shape)};
    const auto matrices = ops_[static_cast<size_t>(draft.node)]->matrices();
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
      attention.columns[part] =
          shapes_[static_cast<size_t>(before.shape)].shape.first_block[part] * static_cast<int32_t>(kBlockRows);
    const int columns = attention.q_heads * attention.layer.head_dim;
    uint64_t*& out = attention_packets_[columns];
    if (out == nullptr) out = packets(static_cast<size_t>(kMostDecodeTokens * columns));
    attention.out = {out, nullptr, columns};
    const int64_t state = int64_t{attention.q_heads} * (attention.layer.head_dim + 2) * kMostDecodeTokens;
    uint64_t*& partial = partial_packets_[state];
    const int slots = std::min(context_.partial_slots(), kMostDecodeTokens * kMostSplits);
    if (partial == nullptr) partial = packets(static_cast<size_t>(slots * state));
    attention.partial = partial;
    return true;
  }

  void fill_call() {
    StepCall& call = program_->call_;
    std::vector<StepShare> shares;
    std::vector<BlockWarps> block_warps;
    for (ShapeMemory& memory : shapes_) {
      for (StepShare& share : memory.plan.shares) share.words_at += static_cast<int32_t>(block_warps.size());
      shares.insert(shares.end(), memory.plan.shares.begin(), memory.plan.shares.end());
      block_warps.insert(block_warps.end(), memory.plan.block_warps.begin(), memory.plan.block_warps.end());
    }
    call.block_warps = keep<BlockWarps>(block_warps, "shares of a step");
    call.shares = keep<StepShare>(shares, "shares of a step");
    call.shape_count = static_cast<int>(shapes_.size());
    for (size_t i = 0; i < shapes_.size(); ++i) call.shapes[i] = shapes_[i].shape;
    std::vector<StepLinear> linears;
    for (const StepOp& o : program_->ops_) {
      if (o.is_attention) continue;
      StepLinear linear;
      std::ranges::copy(o.parts, linear.parts);
      linear.shape = o.shape;
      linears.push_back(linear);
    }
    call.linears = keep<StepLinear>(linears, "weights of a step");
    call.numbers = static_cast<int>(program_->ops_.size()) | 1;
  }

  BuildContext& context_;
  const Graph& graph_;
  const std::vector<std::unique_ptr<CudaOp>>& ops_;
  std::unique_ptr<StepProgram> program_;
  std::vector<Flow> flows_;
  std::vector<int> uses_;
  size_t head_ = 0;
  std::vector<Draft> drafts_;
  ValueId kept_ = kNone;
  int kept_by_ = -1;
  std::vector<ShapeMemory> shapes_;
  std::vector<bool> heads_;
  std::map<int, uint64_t*> attention_packets_;
  std::map<int64_t, uint64_t*> partial_packets_;
};

std::unique_ptr<StepProgram> StepProgram::make(BuildContext& context, const std::vector<std::unique_ptr<CudaOp>>& ops) {
  if (device_info().capability < 90) return nullptr;  // for its bulk copies
  return StepPlanner(context, ops).plan();
}

void StepProgram::extend(const Graph& graph, std::vector<Lifetime>& lives) const {
  const auto last = static_cast<int>(nodes_.back());
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (parts_[i] != Part::kBefore) continue;
    for (const ValueId id : graph.nodes()[i].outputs) {
      Lifetime& life = lives[static_cast<size_t>(id)];
      life.last = std::max(life.last, last);
    }
  }
}

void StepProgram::place(std::span<float* const> values) {
  const auto at = [&](ValueId id) { return values[static_cast<size_t>(id)]; };
  ops_.front().x = at(plain_);
  ops_.back().result = at(result_);
  for (const auto& [op, angles] : angles_) {
    for (HeadPath* path : {&ops_[op].q_path, &ops_[op].k_path}) {
      path->cos = at(angles.first);
      path->sin = at(angles.second);
    }
  }
  memory_.push_back(upload(std::as_bytes(std::span(ops_)), "operators of a step"));
  call_.ops = memory_.back().as<const StepOp>();
}

// Shared memory: what a step of so many tokens needs, and the ring in the rest.
void StepProgram::lay_out(StepCall& call) const {
  call.most_rows = std::max(call.tokens, call.rows);
  const auto round = [](size_t bytes) { return static_cast<int>((bytes + 127) / 128 * 128); };
  const auto columns = static_cast<size_t>(most_columns_ + 8);
  const size_t x = columns * static_cast<size_t>(call.most_rows) * 2 * sizeof(uint16_t);
  const int queries = std::min(16, most_group_ * call.most_rows);
  const int scratch = round(std::max(x, attend_memory_bytes(queries, most_head_dim_, value_bytes_, call.page_turns)));
  const int sums = round(sizeof(float) * static_cast<size_t>(kStepWarps * call.most_sums * call.most_rows * 16));
  const int kept = round(sizeof(float) * static_cast<size_t>(call.most_rows * call.kept_columns));
  const int rows = round((2 * 16 * sizeof(float) + sizeof(BlockWarps)) * static_cast<size_t>(call.most_blocks));
  const int linears = round(sizeof(StepLinear) * nodes_.size());
  const int stage = kStepWarps * kStageBytes;
  call.ring_depth = std::min(kMostRingDepth, (kMostStepShared - scratch - sums - kept - rows - linears) / stage);
  call.scratch_at = call.ring_depth * stage;
  call.sums_at = call.scratch_at + scratch;
  call.kept_at = call.sums_at + sums;
  call.rows_at = call.kept_at + kept;
  call.linears_at = call.rows_at + rows;
  call.shared_bytes = call.linears_at + linears;
}

void StepProgram::launch(const StepContext& context, size_t end) const noexcept {
  StepCall call = call_;
  call.tokens = context.tokens;
  call.rows = context.rows;
  while (call.op_count < static_cast<int>(ops_.size())) {
    const auto next = static_cast<size_t>(call.op_count);
    if (nodes_[next] >= end || (ops_[next].of_rows && context.rows == 0)) break;
    if (!ops_[next].is_attention) ++call.linear_count;
    ++call.op_count;
  }
  call.logits_rows = context.logits_rows;
  call.positions = context.positions;
  call.slots = context.slots;
  call.masks = context.masks;
  call.pages = context.pages;
  call.number = context.number;
  for (size_t i = 0; i < std::min(context.groups, size_t{kMostStepTiles}); ++i)
    call.tiles[i] = {context.tiles[i].tiles, context.tiles[i].count};
  call.page_turns = context.several_pages ? 2 : 1;
  lay_out(call);
  run_step(context.stream, call, multiprocessors_);
}

size_t StepProgram::bytes() const {
  size_t bytes = 0;
  for (const DeviceMemory& memory : memory_) bytes += memory.size();
  return bytes;
}

}  // namespace edgewise::cuda
