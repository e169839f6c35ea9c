#include "backends/cpu/packed_matrix.h"

#include <algorithm>

#include "base/error.h"

namespace edgewise::cpu {
namespace {

size_t align64(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

std::vector<PackedFormat> packed_formats(const Node& node, const std::vector<int64_t>& n,
                                         const std::vector<int64_t>& k) {
  const std::string text = node.text("packed");
  std::vector<PackedFormat> formats;
  size_t at = 0;
  for (size_t i = 0; i < n.size(); ++i) {
    // One format for all, or one for each behind semicolons.
    const size_t end = std::min(text.find(';', at), text.size());
    formats.push_back(PackedFormat::parse(text.substr(at, end - at), k[i], n[i], node.integer("block", 0),
                                          node.number("global_scale", 1.0)));
    if (end < text.size()) at = end + 1;
  }
  return formats;
}

LinearKernel linear_kernel(Isa isa, Encoding encoding, Walk walk) {
  if (is_integer(encoding)) return integer_linear_kernel(isa, encoding);
  return walk == Walk::kDirect ? direct_linear_kernel(isa, encoding) : blocked_linear_kernel(isa, encoding);
}

std::vector<PackedMatrix> load_matrices(const BuildContext& context, const Node& node, size_t first, size_t stride,
                                        bool with_bias, int64_t stack) {
  const Graph& graph = *context.graph;
  const std::vector<int64_t>& n = node.integers("n");
  std::vector<int64_t> k(n.size(), node.op == Op::kMoe ? 0 : node.integer("k"));
  if (node.op == Op::kMoe) k = {node.integer("k"), node.integer("k"), n.at(0)};
  const auto formats = packed_formats(node, n, k);
  std::vector<PackedMatrix> matrices;
  for (size_t i = 0; i < n.size(); ++i) {
    PackedMatrix matrix;
    matrix.format = formats[i];
    matrix.weights = graph.constant(node.inputs.at(first + i * stride));
    const size_t expected = matrix.format.bytes() * static_cast<size_t>(stack);
    if (matrix.weights.bytes().size() != expected) {
      bad_file("{}: packed weights take {} bytes, found {}; rebuild the engine", node.name, expected,
               matrix.weights.bytes().size());
    }
    if (with_bias) matrix.bias = float_constant(graph, node, first + i * stride + 3);
    for (const Walk walk : {Walk::kDirect, Walk::kBlocked}) {
      matrix.kernels[static_cast<size_t>(walk)] = linear_kernel(context.isa, matrix.format.encoding, walk);
    }
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

size_t QuantizedBuffer::bytes() const {
  const auto rows = static_cast<size_t>(rows_);
  return align64(rows * row_bytes_) + (wide_ ? align64(rows * row_bytes_ * 2) : 0) + 2 * align64(rows * groups_ * 4);
}

QuantizedRows QuantizedBuffer::at(std::byte* memory, int64_t row) const {
  const auto rows = static_cast<size_t>(rows_);
  const auto r = static_cast<size_t>(row);
  QuantizedRows result;
  result.q = reinterpret_cast<int8_t*>(memory) + r * row_bytes_;
  memory += align64(rows * row_bytes_);
  if (wide_) {
    result.wide = reinterpret_cast<int16_t*>(memory) + r * row_bytes_;
    memory += align64(rows * row_bytes_ * 2);
  }
  result.scale = reinterpret_cast<float*>(memory) + r * groups_;
  memory += align64(rows * groups_ * 4);
  result.sum = reinterpret_cast<float*>(memory) + r * groups_;
  return result;
}

void quantize_share(const VectorKernels& kernels, const PackedFormat& format, const float* x, int64_t x_stride,
                    int rows, const QuantizedBuffer& buffer, std::byte* memory, int worker, int workers) noexcept {
  const Range share = share_of(rows * format.groups, worker, workers);
  for (int64_t unit = share.begin; unit < share.end;) {
    const int64_t row = unit / format.groups;
    const int64_t begin = unit % format.groups;
    const int64_t end = std::min(format.groups, begin + share.end - unit);
    kernels.quantize_row(format, x + row * x_stride, begin, end, buffer.at(memory, row));
    unit += end - begin;
  }
}

}  // namespace edgewise::cpu
