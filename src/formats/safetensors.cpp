#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/error.h"
#include "formats/json.h"

namespace edgewise {
namespace {

struct TypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array kTypes = {
    TypeName{"F32", DType::kF32},        TypeName{"F16", DType::kF16},        TypeName{"BF16", DType::kBF16},
    TypeName{"F8_E4M3", DType::kF8E4M3}, TypeName{"F8_E5M2", DType::kF8E5M2}, TypeName{"I8", DType::kI8},
    TypeName{"U8", DType::kU8},          TypeName{"I32", DType::kI32},        TypeName{"I64", DType::kI64},
    TypeName{"BOOL", DType::kBool},      TypeName{"F64", DType::kF64},        TypeName{"I16", DType::kI16},
};
constexpr uint64_t kMaxHeader = 100'000'000;

DType parse_dtype(const JsonView& entry) {
  const std::string name = entry.string("dtype");
  for (const TypeName& type : kTypes) {
    if (type.name == name) return type.dtype;
  }
  unsupported("{}: dtype {} is not supported", entry.where(), name);
}

Shape parse_shape(const JsonView& entry) {
  Shape shape;
  for (const double dim : entry.numbers("shape")) {
    if (dim < 0 || dim > 1e15 || dim != static_cast<double>(static_cast<int64_t>(dim)) || shape.size() >= 16) {
      entry.reject("shape", "at most 16 non-negative integers");
    }
    shape.push_back(static_cast<int64_t>(dim));
  }
  return shape;
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse(file->bytes(), file, path.string());
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                                       std::string source) {
  uint64_t header_size = 0;
  if (bytes.size() < 8) bad_file("{}: {} bytes are no safetensors file; the header is missing", source, bytes.size());
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > kMaxHeader || header_size > bytes.size() - 8) {
    bad_file("{}: the header claims {} bytes, the file has {}; is it truncated, or a Git LFS pointer?", source,
             header_size, bytes.size());
  }
  const auto body = bytes.subspan(8 + header_size);
  const Json header =
      parse_json({reinterpret_cast<const char*>(bytes.data()) + 8, static_cast<size_t>(header_size)}, source);
  if (!header.is_object()) bad_file("{}: the header is not a JSON object", source);

  SafetensorsFile result;
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      for (const auto& [key, text] : value.items()) {
        if (text.is_string()) result.metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    const JsonView entry(value, source + ": " + name);
    const auto offsets = entry.numbers("data_offsets");
    const auto size = static_cast<double>(body.size());
    if (offsets.size() != 2 || !(0 <= offsets[0] && offsets[0] <= offsets[1] && offsets[1] <= size)) {
      entry.reject("data_offsets",
                   fmt::format("a range inside the {} bytes of data (is the file truncated?)", body.size()));
    }
    const auto begin = static_cast<uint64_t>(offsets[0]);
    const auto end = static_cast<uint64_t>(offsets[1]);
    const DType dtype = parse_dtype(entry);
    const Shape shape = parse_shape(entry);
    if (byte_size(dtype, static_cast<size_t>(element_count(shape))) != end - begin) {
      entry.reject("data_offsets", fmt::format("{} bytes for {}{}", byte_size(dtype, size_t(element_count(shape))),
                                               dtype_name(dtype), shape_text(shape)));
    }
    ranges.emplace_back(begin, end);
    result.tensors_.emplace(name, Tensor::view(dtype, shape, body.subspan(begin, end - begin), owner));
  }
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) bad_file("{}: tensors overlap at byte {}", source, ranges[i].first);
  }
  result.source_ = std::move(source);
  return result;
}

const Tensor& SafetensorsFile::at(std::string_view name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) bad_file("{}: the tensor {} is missing", source_, name);
  return it->second;
}

void SafetensorsWriter::declare(const std::string& name, DType dtype, const Shape& shape) {
  const uint64_t size = byte_size(dtype, static_cast<size_t>(element_count(shape)));
  entries_.push_back({name, dtype, shape, size_, size_ + size});
  size_ += size;
}

void SafetensorsWriter::write_header() {
  OrderedJson header;
  header["__metadata__"] = {{"format", "pt"}};
  for (const Entry& entry : entries_) {
    const auto type =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeName& t) { return t.dtype == entry.dtype; });
    check_internal(type != kTypes.end(), "safetensors has no such dtype");
    header[entry.name] = {{"dtype", type->name}, {"shape", entry.shape}, {"data_offsets", {entry.begin, entry.end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  file_.write(std::as_bytes(std::span(&size, 1)));
  file_.write(text);
}

void SafetensorsWriter::write(const std::string& name, const Tensor& tensor) {
  if (written_ == 0) write_header();
  check_internal(written_ < entries_.size() && entries_[written_].name == name, "safetensors: written out of order");
  const Entry& entry = entries_[written_++];
  check_internal(entry.dtype == tensor.dtype() && entry.shape == tensor.shape(), "safetensors: not as declared");
  file_.write(tensor.bytes());
}

void SafetensorsWriter::commit() {
  check_internal(written_ == entries_.size(), "safetensors: tensors were declared and not written");
  if (entries_.empty()) write_header();
  file_.commit();
}

}  // namespace edgewise
