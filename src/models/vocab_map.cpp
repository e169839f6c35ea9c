#include "models/vocab_map.h"

#include <algorithm>

#include "base/error.h"
#include "formats/safetensors.h"

namespace edgewise {

std::vector<int32_t> read_vocab_map(const std::filesystem::path& file, int64_t vocabulary) {
  const SafetensorsFile tensors = SafetensorsFile::open(file);
  const Tensor& map = tensors.at("vocab_map");
  if (map.rank() != 1 || map.count() == 0 || (map.dtype() != DType::kI32 && map.dtype() != DType::kI64)) {
    bad_file("{}: vocab_map: expected i32 [n], found {} {}", file.string(), dtype_name(map.dtype()),
             shape_text(map.shape()));
  }
  std::vector<int32_t> kept;
  int64_t last = -1;
  for (const int64_t id : map.to_int64()) {
    if (id <= last || id >= vocabulary) {
      bad_file("{}: vocab_map: token {} after {}; expected ascending ids below {}", file.string(), id, last,
               vocabulary);
    }
    kept.push_back(static_cast<int32_t>(id));
    last = id;
  }
  return kept;
}

void write_vocab_map(const std::filesystem::path& file, std::span<const int32_t> kept) {
  Tensor map = Tensor::zeros(DType::kI32, {static_cast<int64_t>(kept.size())});
  std::ranges::copy(kept, map.mutable_as<int32_t>().begin());
  SafetensorsWriter writer(file);
  writer.declare("vocab_map", map.dtype(), map.shape());
  writer.write("vocab_map", map);
  writer.commit();
}

Tensor gather_rows(const Tensor& tensor, std::span<const int32_t> kept) {
  Shape shape = tensor.shape();
  shape.at(0) = static_cast<int64_t>(kept.size());
  Tensor result = Tensor::zeros(tensor.dtype(), shape);
  auto out = result.mutable_bytes();
  for (const int32_t id : kept) {
    const Tensor row = tensor.rows(id, id + 1);
    std::ranges::copy(row.bytes(), out.begin());
    out = out.subspan(row.bytes().size());
  }
  return result;
}

}  // namespace edgewise
