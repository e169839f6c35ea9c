#include "models/quantized_weight.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/error.h"

namespace edgewise {
namespace {

// Where unsigned code `i` of row `row` lies in packed int32 words.
enum class Packing {
  kAlongRow,  // [n, K/per]: compressed-tensors
  kGptq,      // [K/per, n]
  kAwq,       // [K, n/per], nibbles in the order 0 2 4 6 1 3 5 7
};

constexpr int kAwqOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // nibble that holds column j

// One packed int32 matrix read code by code.
struct PackedCodes {
  Tensor words;
  Packing packing;
  int bits;

  uint32_t at(int64_t row, int64_t k) const {
    const int64_t per = 32 / bits;
    const int64_t width = words.dim(1);
    int64_t index = 0;
    int64_t slot = 0;
    switch (packing) {
      case Packing::kAlongRow:
        index = row * width + k / per;
        slot = k % per;
        break;
      case Packing::kGptq:
        index = k / per * width + row;
        slot = k % per;
        break;
      case Packing::kAwq:
        index = k * width + row / per;
        slot = kAwqOrder[row % per];
        break;
    }
    uint32_t word = 0;  // in a file they lie anywhere
    std::memcpy(&word, words.bytes().subspan(static_cast<size_t>(index) * sizeof(word)).data(), sizeof(word));
    return (word >> (slot * bits)) & ((1u << bits) - 1);
  }
};

// Codes [n, K] as signed integers (code - 2^(bits-1)), columns in `order` where that is given.
Tensor unpack(const PackedCodes& codes, int64_t n, int64_t k, const std::vector<int64_t>& order) {
  Tensor result = Tensor::zeros(codes.bits == 4 ? DType::kI4 : DType::kI8, {n, k});
  const auto out = result.mutable_bytes();
  const uint32_t middle = 1u << (codes.bits - 1);
  if (codes.packing == Packing::kAlongRow && order.empty() && k % (32 / codes.bits) == 0) {
    // They lie as they shall, but for the bit that makes them signed.
    const auto flip = static_cast<std::byte>(codes.bits == 4 ? 0x88 : 0x80);
    std::ranges::transform(codes.words.bytes(), out.begin(), [flip](std::byte byte) { return byte ^ flip; });
    return result;
  }
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < k; ++column) {
      const uint32_t code = codes.at(row, order.empty() ? column : order[static_cast<size_t>(column)]) ^ middle;
      const auto at = static_cast<size_t>(row * k + column);
      if (codes.bits == 4) {
        out[at / 2] |= static_cast<std::byte>(code << (at % 2 * 4));
      } else {
        out[at] = static_cast<std::byte>(code);
      }
    }
  }
  return result;
}

Tensor transpose(const Tensor& tensor) {
  const int64_t rows = tensor.dim(0);
  const int64_t columns = tensor.dim(1);
  const auto values = tensor.to_floats();
  std::vector<float> flipped(values.size());
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) flipped[size_t(j * rows + i)] = values[size_t(i * columns + j)];
  }
  return Tensor::from_floats(tensor.dtype(), {columns, rows}, flipped);
}

// The order of columns that makes groups contiguous; empty when they are already.
std::vector<int64_t> column_order(const Tensor& groups, int64_t block, const std::string& module) {
  const auto group_of = groups.to_int64();
  std::vector<int64_t> order(group_of.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return group_of[size_t(a)] < group_of[size_t(b)]; });
  bool trivial = true;
  for (size_t i = 0; i < order.size(); ++i) {
    if (group_of[static_cast<size_t>(order[i])] != static_cast<int64_t>(i) / block) {
      bad_file("{}: g_idx does not assign {} columns to each group", module, block);
    }
    trivial = trivial && order[i] == static_cast<int64_t>(i);
  }
  return trivial ? std::vector<int64_t>{} : order;
}

LazyTensor order_constant(const std::vector<int64_t>& order) {
  if (order.empty()) return {};
  Tensor tensor = Tensor::zeros(DType::kI32, {static_cast<int64_t>(order.size())});
  std::copy(order.begin(), order.end(), tensor.mutable_as<int32_t>().begin());
  return lazy(std::move(tensor));
}

class WeightReader {
 public:
  WeightReader(const Checkpoint& checkpoint, const std::string& module)
      : checkpoint_(checkpoint), module_(module), config_(checkpoint.config(), checkpoint.config_path()) {}

  LinearWeight read();

 private:
  Tensor tensor(const std::string& suffix) const { return checkpoint_.tensor(module_ + suffix); }
  bool has(const std::string& suffix) const { return checkpoint_.contains(module_ + suffix); }
  Tensor matrix(const std::string& suffix) const {
    Tensor result = tensor(suffix);
    if (result.rank() != 2) bad_file("{}{}: expected a matrix, found {}", module_, suffix, shape_text(result.shape()));
    return result;
  }

  LinearWeight read_gptq_or_awq(bool awq);
  LinearWeight read_packed_integers();
  LinearWeight read_scaled();
  LinearWeight read_nvfp4();
  Tensor scale_rows(const Tensor& scale, int64_t n, int64_t k, int64_t& block) const;
  std::vector<int64_t> block_size() const;
  JsonView weight_scheme() const;
  std::string input_activation() const;

  const Checkpoint& checkpoint_;
  std::string module_;
  JsonView config_;
};

// The first config group's weights: every published recipe has one group, for all Linears.
JsonView WeightReader::weight_scheme() const {
  const JsonView groups = config_.at("quantization_config").at("config_groups");
  if (!groups.value().is_object() || groups.value().size() != 1) {
    unsupported("{}: more than one quantization group is not supported", groups.where());
  }
  return groups.at(groups.value().begin().key());
}

std::string WeightReader::input_activation() const {
  const JsonView quantization = config_.at("quantization_config");
  if (!quantization.has("config_groups")) return "";
  const JsonView group = weight_scheme();
  if (!group.has("input_activations")) return "";
  const JsonView input = group.at("input_activations");
  return input.string("type", "int") == "int" && input.integer("num_bits", 8) == 8 ? "int8" : "";
}

LinearWeight WeightReader::read_gptq_or_awq(bool awq) {
  const JsonView quantization = config_.at("quantization_config");
  const int64_t bits = quantization.integer("bits", 4);
  if (bits != 4 && !(bits == 8 && !awq)) unsupported("{}: bits = {} is not supported", quantization.where(), bits);
  if (awq && quantization.string("version", "gemm") != "gemm") {
    unsupported("{}: version {} is not supported", quantization.where(), quantization.string("version"));
  }
  const Tensor words = matrix(".qweight");
  const Tensor zero_words = matrix(".qzeros");
  const Tensor scales = matrix(".scales");
  const int64_t per = 32 / bits;
  const int64_t k = awq ? words.dim(0) : words.dim(0) * per;
  const int64_t n = awq ? words.dim(1) * per : words.dim(1);
  int64_t block = quantization.integer("group_size", 128);
  if (block <= 0) block = k;
  const int64_t groups = (k + block - 1) / block;
  if (scales.shape() != Shape{groups, n} || zero_words.shape() != Shape{groups, n / per} ||
      words.dtype() != DType::kI32 || zero_words.dtype() != DType::kI32) {
    bad_file("{}: qweight {}, qzeros {} and scales {} do not fit group_size {}", module_, shape_text(words.shape()),
             shape_text(zero_words.shape()), shape_text(scales.shape()), block);
  }
  std::vector<int64_t> order;
  if (has(".g_idx")) {
    const Tensor group_of = tensor(".g_idx");
    if (group_of.count() != k) bad_file("{}: g_idx has {} entries, expected {}", module_, group_of.count(), k);
    order = column_order(group_of, block, module_);
  }
  // GPTQ's first format stores zero - 1.
  const bool one_less = !awq && quantization.string("checkpoint_format", "gptq") == "gptq";
  const auto width = static_cast<int>(bits);
  const PackedCodes zeros{zero_words, awq ? Packing::kAwq : Packing::kAlongRow, width};
  std::vector<float> zero(static_cast<size_t>(n * groups));
  const int middle = 1 << (bits - 1);
  bool symmetric = true;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const uint32_t code = awq ? zeros.at(row, g) : zeros.at(g, row);
      const int value = static_cast<int>(code) + (one_less ? 1 : 0) - middle;
      symmetric = symmetric && value == 0;
      zero[static_cast<size_t>(row * groups + g)] = static_cast<float>(value);
    }
  }
  LinearWeight result;
  result.block = block;
  result.weight = {bits == 4 ? DType::kI4 : DType::kI8, {n, k}, [words, awq, width, n, k, order] {
                     return unpack({words, awq ? Packing::kAwq : Packing::kGptq, width}, n, k, order);
                   }};
  result.scale = {scales.dtype(), {n, groups}, [scales] { return transpose(scales); }};
  if (!symmetric) result.zero = lazy(Tensor::from_floats(DType::kI16, {n, groups}, zero));
  result.gather = order_constant(order);
  return result;
}

LinearWeight WeightReader::read_packed_integers() {
  const JsonView scheme = weight_scheme().at("weights");
  const int64_t bits = scheme.integer("num_bits");
  if (bits != 4 && bits != 8) unsupported("{}: num_bits = {} is not supported", scheme.where(), bits);
  const Tensor words = matrix(".weight_packed");
  const auto shape = tensor(".weight_shape").to_int64();
  const Tensor scales = matrix(".weight_scale");
  const int64_t per = 32 / bits;
  if (shape.size() != 2 || words.dtype() != DType::kI32 || shape[0] != words.dim(0) || shape[1] < 1 ||
      (shape[1] + per - 1) / per != words.dim(1) || scales.dim(0) != shape[0]) {
    bad_file("{}: weight_packed {}, weight_scale {} and weight_shape do not fit {} bits", module_,
             shape_text(words.shape()), shape_text(scales.shape()), bits);
  }
  const int64_t n = shape[0];
  const int64_t k = shape[1];
  LinearWeight result;
  result.block = scheme.has("group_size") && scheme.integer("group_size") > 0 ? scheme.integer("group_size") : k;
  const int64_t groups = (k + result.block - 1) / result.block;
  if (scales.dim(1) != groups) bad_file("{}: weight_scale has {} groups, expected {}", module_, scales.dim(1), groups);
  std::vector<int64_t> order;
  if (has(".weight_g_idx")) order = column_order(tensor(".weight_g_idx"), result.block, module_);
  const auto width = static_cast<int>(bits);
  result.weight = {bits == 4 ? DType::kI4 : DType::kI8, {n, k}, [words, width, n, k, order] {
                     return unpack({words, Packing::kAlongRow, width}, n, k, order);
                   }};
  result.scale = lazy(scales);
  if (has(".weight_zero_point")) {
    const Tensor zero_words = matrix(".weight_zero_point");  // packed along the rows
    if (zero_words.dtype() != DType::kI32 || zero_words.dim(0) != (n + per - 1) / per || zero_words.dim(1) != groups) {
      bad_file("{}: weight_zero_point has shape {}", module_, shape_text(zero_words.shape()));
    }
    const PackedCodes zeros{zero_words, Packing::kGptq, width};
    std::vector<float> zero(static_cast<size_t>(n * groups));
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < groups; ++g) {
        zero[size_t(row * groups + g)] = static_cast<float>(static_cast<int>(zeros.at(g, row)) - (1 << (bits - 1)));
      }
    }
    result.zero = lazy(Tensor::from_floats(DType::kI8, {n, groups}, zero));
  }
  result.gather = order_constant(order);
  return result;
}

// Rows and columns that share a scale, where the config names a grid of blocks.
std::vector<int64_t> WeightReader::block_size() const {
  const JsonView quantization = config_.at("quantization_config");
  const bool named_here = quantization.has("weight_block_size");
  if (!named_here && !quantization.has("config_groups")) return {};
  const JsonView place = named_here ? quantization : weight_scheme().at("weights");
  const std::string key = named_here ? "weight_block_size" : "block_structure";
  if (!place.has(key)) return {};
  const auto size = place.numbers(key);
  if (size.size() != 2 || !(size[0] >= 1 && size[0] <= INT32_MAX) || !(size[1] >= 1 && size[1] <= INT32_MAX)) {
    place.reject(key, "rows and columns of a block");
  }
  return {static_cast<int64_t>(size[0]), static_cast<int64_t>(size[1])};
}

// A scalar, a row vector or a grid of block scales as one scale a row and block of columns.
Tensor WeightReader::scale_rows(const Tensor& scale, int64_t n, int64_t k, int64_t& block) const {
  const auto values = scale.to_floats();
  block = k;
  const int64_t rows = scale.rank() == 2 ? scale.dim(0) : scale.count();
  const int64_t columns = scale.rank() == 2 ? scale.dim(1) : 1;
  int64_t rows_per_scale = rows == 1 ? n : 1;
  if (const auto size = block_size(); !size.empty() && scale.rank() == 2) {
    rows_per_scale = size[0];
    block = std::min(size[1], k);
  } else if (columns > 1) {
    block = weight_scheme().at("weights").integer("group_size");
  }
  if (block < 1 || (k + block - 1) / block != columns || (n + rows_per_scale - 1) / rows_per_scale != rows) {
    bad_file("{}: scales {} do not fit a weight of [{}, {}] in blocks of [{}, {}]", module_, shape_text(scale.shape()),
             n, k, rows_per_scale, block);
  }
  std::vector<float> expanded(static_cast<size_t>(n * columns));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      expanded[size_t(i * columns + j)] = values[size_t(i / rows_per_scale * columns + j)];
    }
  }
  const DType dtype = is_float(scale.dtype()) && bit_width(scale.dtype()) >= 16 ? scale.dtype() : DType::kF32;
  return Tensor::from_floats(dtype, {n, columns}, expanded);
}

LinearWeight WeightReader::read_scaled() {
  const Tensor weight = matrix(".weight");
  LinearWeight result;
  result.weight = lazy(weight);
  const Tensor scale = has(".weight_scale") ? tensor(".weight_scale") : tensor(".weight_scale_inv");
  result.scale = lazy(scale_rows(scale, weight.dim(0), weight.dim(1), result.block));
  if (has(".weight_zero_point")) {
    int64_t ignored = 0;
    result.zero =
        lazy(scale_rows(tensor(".weight_zero_point"), weight.dim(0), weight.dim(1), ignored).cast(DType::kI16));
  }
  if (weight.dtype() == DType::kI8) result.activation = input_activation();
  return result;
}

LinearWeight WeightReader::read_nvfp4() {
  const Tensor packed = matrix(".weight_packed");
  const Tensor scales = matrix(".weight_scale");
  const Tensor global = tensor(".weight_global_scale");
  const int64_t n = packed.dim(0);
  const int64_t k = packed.dim(1) * 2;
  if (scales.dim(0) != n || scales.dim(1) != (k + 15) / 16 || scales.dtype() != DType::kF8E4M3 || global.count() != 1) {
    bad_file("{}: weight_packed {}, weight_scale {} do not make NVFP4 with blocks of 16", module_,
             shape_text(packed.shape()), shape_text(scales.shape()));
  }
  const float divisor = global.to_floats()[0];
  if (!(divisor > 0)) bad_file("{}: weight_global_scale is {}, expected a positive number", module_, divisor);
  LinearWeight result;
  result.weight = lazy(Tensor::view(DType::kF4E2M1, {n, k}, packed.bytes(), packed.owner()));
  result.scale = lazy(scales);
  result.block = 16;
  result.global_scale = 1.0 / double{divisor};
  return result;
}

LinearWeight WeightReader::read() {
  const bool float_weight =
      has(".weight") && is_float(tensor(".weight").dtype()) && bit_width(tensor(".weight").dtype()) >= 16;
  if (float_weight) return {lazy(matrix(".weight")), {}, {}, 0, 1, "", {}};
  if (has(".weight") && (has(".weight_scale") || has(".weight_scale_inv"))) return read_scaled();
  if (has(".weight_packed") && has(".weight_global_scale")) return read_nvfp4();
  if (has(".weight_packed")) return read_packed_integers();
  if (has(".qweight")) {
    const std::string method = config_.at("quantization_config").string("quant_method");
    if (method == "awq" || method == "gptq") return read_gptq_or_awq(method == "awq");
    unsupported("{}: quantization_config: quant_method = {} is not supported", config_.where(), method);
  }
  if (has(".weight")) {
    unsupported("{}: {}.weight is {} without a scale", checkpoint_.directory().string(), module_,
                dtype_name(tensor(".weight").dtype()));
  }
  bad_file("{}: the tensor {}.weight is missing", checkpoint_.directory().string(), module_);
}

}  // namespace

LinearWeight read_linear_weight(const Checkpoint& checkpoint, const std::string& module) {
  return WeightReader(checkpoint, module).read();
}

}  // namespace edgewise
