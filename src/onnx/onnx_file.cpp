#include "onnx/onnx_file.h"

#include <algorithm>
#include <charconv>

#include "base/error.h"
#include "base/mapped_file.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

struct TypePair {
  int onnx;
  DType dtype;
};
constexpr std::array kTypes = {
    TypePair{1, DType::kF32},  TypePair{2, DType::kU8},    TypePair{3, DType::kI8},      TypePair{5, DType::kI16},
    TypePair{6, DType::kI32},  TypePair{7, DType::kI64},   TypePair{9, DType::kBool},    TypePair{10, DType::kF16},
    TypePair{11, DType::kF64}, TypePair{16, DType::kBF16}, TypePair{17, DType::kF8E4M3}, TypePair{19, DType::kF8E5M2},
    TypePair{21, DType::kU4},  TypePair{22, DType::kI4},   TypePair{23, DType::kF4E2M1},
};

// Attribute types of the standard.
enum AttributeType { kFloat = 1, kInt = 2, kString = 3, kInts = 7 };

constexpr size_t kInlineLimit = 1024;  // bytes of a tensor that stays in model.onnx
constexpr size_t kAlignment = 64;

void set_value_info(onnx_file::ValueInfo& info, const std::string& name, DType dtype,
                    const std::vector<std::string>& dims) {
  info.set_name(name);
  auto& type = *info.mutable_type()->mutable_tensor_type();
  type.set_elem_type(onnx_type(dtype));
  auto& shape = *type.mutable_shape();
  for (const std::string& dim : dims) {
    auto& entry = *shape.add_dim();
    if (!dim.empty() && std::all_of(dim.begin(), dim.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      entry.set_dim_value(std::stoll(dim));
    } else {
      entry.set_dim_param(dim);
    }
  }
}

uint64_t parse_number(const std::string& text, const std::string& what) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    bad_file("{}: expected a number, found \"{}\"", what, text);
  return value;
}

}  // namespace

int onnx_type(DType dtype) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypePair& t) { return t.dtype == dtype; });
  check_internal(it != kTypes.end(), "dtype unknown to ONNX");
  return it->onnx;
}

DType dtype_from_onnx(int type, const std::string& what) {
  const auto it = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypePair& t) { return t.onnx == type; });
  if (it == kTypes.end()) unsupported("{}: ONNX data type {} is not supported", what, type);
  return it->dtype;
}

OnnxWriter::OnnxWriter(const fs::path& file) : file_(file), data_(file.string() + ".data") {
  model_.set_ir_version(kOnnxIrVersion);
  model_.set_producer_name("edgewise");
  auto& opset = *model_.add_opset_import();
  opset.set_domain("");
  opset.set_version(kOnnxOpset);
  model_.mutable_graph()->set_name("decoder");
}

void OnnxWriter::add_input(const std::string& name, DType dtype, const std::vector<std::string>& dims) {
  set_value_info(*model_.mutable_graph()->add_input(), name, dtype, dims);
  names_[name] = true;
}

void OnnxWriter::add_output(const std::string& name, DType dtype, const std::vector<std::string>& dims) {
  set_value_info(*model_.mutable_graph()->add_output(), name, dtype, dims);
}

std::string OnnxWriter::add_initializer(const std::string& name, const Tensor& tensor) {
  check_internal(names_.emplace(name, true).second, "ONNX initializer written twice");
  auto& entry = *model_.mutable_graph()->add_initializer();
  entry.set_name(name);
  entry.set_data_type(onnx_type(tensor.dtype()));
  for (const int64_t dim : tensor.shape()) entry.add_dims(dim);
  const auto bytes = tensor.bytes();
  if (bytes.size() <= kInlineLimit) {
    entry.set_raw_data(bytes.data(), bytes.size());
    return name;
  }
  data_.pad_to(kAlignment);
  const auto add = [&](const std::string& key, const std::string& value) {
    auto& pair = *entry.add_external_data();
    pair.set_key(key);
    pair.set_value(value);
  };
  add("location", file_.filename().string() + ".data");
  add("offset", std::to_string(data_.position()));
  add("length", std::to_string(bytes.size()));
  entry.set_data_location(1);
  data_.write(bytes);
  return name;
}

std::string OnnxWriter::add_node(const std::string& op, const std::string& name, const std::vector<std::string>& inputs,
                                 const Attributes& attributes) {
  add_node(op, name, inputs, std::vector<std::string>{name}, attributes);
  return name;
}

void OnnxWriter::add_node(const std::string& op, const std::string& name, const std::vector<std::string>& inputs,
                          const std::vector<std::string>& outputs, const Attributes& attributes) {
  auto& node = *model_.mutable_graph()->add_node();
  node.set_op_type(op);
  node.set_name(name);
  for (const std::string& input : inputs) node.add_input(input);
  for (const std::string& output : outputs) {
    node.add_output(output);
    check_internal(output.empty() || names_.emplace(output, true).second, "ONNX value written twice");
  }
  for (const auto& [key, value] : attributes) {
    auto& attribute = *node.add_attribute();
    attribute.set_name(key);
    if (const auto* i = std::get_if<int64_t>(&value)) {
      attribute.set_type(kInt);
      attribute.set_i(*i);
    } else if (const auto* f = std::get_if<double>(&value)) {
      attribute.set_type(kFloat);
      attribute.set_f(static_cast<float>(*f));
    } else if (const auto* s = std::get_if<std::string>(&value)) {
      attribute.set_type(kString);
      attribute.set_s(*s);
    } else {
      attribute.set_type(kInts);
      for (const int64_t i : std::get<std::vector<int64_t>>(value)) attribute.add_ints(i);
    }
  }
}

void OnnxWriter::set_metadata(const std::string& key, const std::string& value) {
  auto& pair = *model_.add_metadata_props();
  pair.set_key(key);
  pair.set_value(value);
}

void OnnxWriter::commit() {
  data_.commit();
  std::string bytes;
  if (!model_.SerializeToString(&bytes))
    fail(ErrorKind::kInternal, "{} would be larger than 2 GiB", file_.filename().string());
  write_text_file(file_, bytes);
}

OnnxFile OnnxFile::open(const fs::path& path) { return parse(MappedFile::open(path)->bytes(), path); }

OnnxFile OnnxFile::parse(std::span<const std::byte> bytes, const fs::path& path) {
  OnnxFile file;
  file.source_ = path.string();
  file.directory_ = path.parent_path();
  file.model_ = std::make_shared<onnx_file::Model>();
  if (bytes.size() > (size_t{1} << 31) - 1 ||
      !file.model_->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !file.model_->has_graph()) {
    bad_file("{}: not an ONNX model, or truncated", file.source_);
  }
  for (const auto& opset : file.model_->opset_import()) {
    if (opset.domain().empty() || opset.domain() == "ai.onnx") {
      if (opset.version() < 21) {
        unsupported("{}: opset {} is not supported; export with opset 21 or newer", file.source_, opset.version());
      }
    }
  }
  return file;
}

Tensor OnnxFile::tensor(const onnx_file::Tensor& entry) const {
  const std::string what = source_ + ": " + entry.name();
  const DType dtype = dtype_from_onnx(entry.data_type(), what);
  const Shape shape(entry.dims().begin(), entry.dims().end());
  const size_t size = byte_size(dtype, static_cast<size_t>(element_count(shape)));
  if (entry.data_location() == 1) {
    std::string location;
    uint64_t offset = 0;
    uint64_t length = size;
    for (const auto& pair : entry.external_data()) {
      if (pair.key() == "location") location = pair.value();
      if (pair.key() == "offset") offset = parse_number(pair.value(), what + ": offset");
      if (pair.key() == "length") length = parse_number(pair.value(), what + ": length");
    }
    if (location.empty() || location.find('/') != std::string::npos || location == "..") {
      bad_file("{}: external data location \"{}\" is not a file beside the model", what, location);
    }
    auto& data = data_files_[location];
    if (!data) data = MappedFile::open(directory_ / location);
    if (length != size || offset > data->bytes().size() || size > data->bytes().size() - offset) {
      bad_file("{}: needs {} bytes at {} of {}, which has {}", what, size, offset, location, data->bytes().size());
    }
    return Tensor::view(dtype, shape, data->bytes().subspan(offset, size), data);
  }
  if (entry.has_raw_data()) {
    return Tensor::view(dtype, shape, std::as_bytes(std::span(entry.raw_data())), model_);
  }
  if (dtype == DType::kF32 && static_cast<size_t>(entry.float_data_size()) * 4 == size) {
    return Tensor::from_floats(dtype, shape, {entry.float_data().data(), static_cast<size_t>(entry.float_data_size())});
  }
  if (dtype == DType::kI64 && static_cast<size_t>(entry.int64_data_size()) * 8 == size) {
    return Tensor::from_int64(shape, {entry.int64_data().data(), static_cast<size_t>(entry.int64_data_size())});
  }
  bad_file("{}: holds no data of the size its dims say", what);
}

}  // namespace edgewise
