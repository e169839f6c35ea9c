#include "engine/engine_file.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "engine_generated.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

constexpr char kMagic[8] = {'E', 'D', 'G', 'E', 'W', 'I', 'S', 'E'};
constexpr size_t kSegmentAlignment = 4096;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t reserved;
  uint64_t file_size;
  uint64_t plan_offset;
  uint64_t plan_size;
  uint64_t plan_checksum;
  uint64_t padding[2];
};
static_assert(sizeof(Header) == 64);

uint64_t checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

Offset<engine_file::Attribute> write_attribute(FlatBufferBuilder& builder, const std::string& name,
                                               const Attribute& value) {
  const auto key = builder.CreateString(name);
  Offset<flatbuffers::String> text;
  Offset<flatbuffers::Vector<int64_t>> integers;
  if (const auto* s = std::get_if<std::string>(&value)) text = builder.CreateString(*s);
  if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) integers = builder.CreateVector(*list);
  engine_file::AttributeBuilder entry(builder);
  entry.add_name(key);
  entry.add_kind(static_cast<uint8_t>(value.index()));
  if (const auto* i = std::get_if<int64_t>(&value)) entry.add_integer(*i);
  if (const auto* d = std::get_if<double>(&value)) entry.add_number(*d);
  if (!text.IsNull()) entry.add_text(text);
  if (!integers.IsNull()) entry.add_integers(integers);
  return entry.Finish();
}

Offset<engine_file::Node> write_node(FlatBufferBuilder& builder, const Node& node) {
  std::vector<Offset<engine_file::Attribute>> attributes;
  for (const auto& [name, value] : node.attributes) attributes.push_back(write_attribute(builder, name, value));
  return engine_file::CreateNode(builder, builder.CreateString(std::string(op_name(node.op))),
                                 builder.CreateString(node.name), builder.CreateVector(node.inputs),
                                 builder.CreateVector(node.outputs), builder.CreateVector(attributes));
}

void write_plan(FlatBufferBuilder& builder, const Graph& graph, const EngineInfo& info,
                const std::vector<engine_file::Segment>& segments, const std::vector<int32_t>& segment_of) {
  std::vector<Offset<engine_file::Value>> values;
  for (size_t i = 0; i < graph.values().size(); ++i) {
    const Value& value = graph.values()[i];
    values.push_back(engine_file::CreateValue(builder, builder.CreateString(value.name),
                                              static_cast<uint8_t>(value.dtype), builder.CreateVector(value.shape),
                                              segment_of[i]));
  }
  std::vector<Offset<engine_file::Node>> nodes;
  for (const Node& node : graph.nodes()) nodes.push_back(write_node(builder, node));
  builder.Finish(engine_file::CreatePlan(
      builder, builder.CreateString(info.model), builder.CreateString(info.device), builder.CreateString(info.layout),
      builder.CreateString(info.machine), info.max_batch_size, info.max_input_length, info.kv_capacity,
      builder.CreateString(info.kv_policy), static_cast<uint8_t>(info.kv_dtype), builder.CreateVector(values),
      builder.CreateVector(nodes), builder.CreateVector(graph.inputs()), builder.CreateVector(graph.outputs()),
      builder.CreateVectorOfStructs(segments)));
}

// Reads one file; every complaint starts with its name and ends with what to do.
class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path.string()), file_(MappedFile::open(path)) {
    bytes_ = file_->bytes();
    check_header();
  }
  const engine_file::Plan& plan() const { return *engine_file::GetPlan(bytes_.data() + header_.plan_offset); }
  std::span<const std::byte> segment(int index) const;
  Engine read() const;
  [[noreturn]] void reject(const std::string& why) const {
    bad_file("{}: {}; build the engine again with `edgewise build`", path_, why);
  }

 private:
  void check_header();
  Attributes attributes(const engine_file::Node& node) const;

  std::string path_;
  std::shared_ptr<const MappedFile> file_;
  std::span<const std::byte> bytes_;
  Header header_{};
};

void Reader::check_header() {
  if (bytes_.size() < sizeof(Header) || std::memcmp(bytes_.data(), kMagic, sizeof(kMagic)) != 0) {
    reject("not an Edgewise engine");
  }
  std::memcpy(&header_, bytes_.data(), sizeof(Header));
  if (header_.version != kEngineVersion) {
    reject(fmt::format("engine format {}, this program reads {}", header_.version, kEngineVersion));
  }
  if (header_.file_size != bytes_.size()) {
    reject(fmt::format("truncated: {} bytes, expected {}", bytes_.size(), header_.file_size));
  }
  if (header_.plan_offset > bytes_.size() || header_.plan_size > bytes_.size() - header_.plan_offset) {
    reject("the plan lies outside the file");
  }
  const auto plan_bytes = bytes_.subspan(header_.plan_offset, header_.plan_size);
  if (checksum(plan_bytes) != header_.plan_checksum) reject("the plan's checksum does not match: the file is damaged");
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(plan_bytes.data()), plan_bytes.size());
  if (!engine_file::VerifyPlanBuffer(verifier)) reject("the plan is malformed");
}

std::span<const std::byte> Reader::segment(int index) const {
  const auto& segments = *plan().segments();
  if (index < 0 || static_cast<size_t>(index) >= segments.size())
    reject("a constant names a segment that is not there");
  const auto& entry = *segments.Get(static_cast<flatbuffers::uoffset_t>(index));
  if (entry.offset() > bytes_.size() || entry.size() > bytes_.size() - entry.offset() ||
      entry.offset() % kSegmentAlignment != 0) {
    reject("a weight segment lies outside the file");
  }
  return bytes_.subspan(entry.offset(), entry.size());
}

Attributes Reader::attributes(const engine_file::Node& node) const {
  Attributes result;
  if (node.attributes() == nullptr) return result;
  for (const auto* entry : *node.attributes()) {
    Attribute value;
    if (entry->kind() == 0) value = entry->integer();
    if (entry->kind() == 1) value = entry->number();
    if (entry->kind() == 2) value = entry->text() == nullptr ? std::string() : entry->text()->str();
    if (entry->kind() == 3) {
      value = entry->integers() == nullptr ? std::vector<int64_t>()
                                           : std::vector<int64_t>(entry->integers()->begin(), entry->integers()->end());
    }
    if (entry->kind() > 3) reject("an attribute of unknown kind");
    result.emplace(entry->name()->str(), std::move(value));
  }
  return result;
}

Engine Reader::read() const {
  const engine_file::Plan& stored = plan();
  Engine engine;
  engine.fingerprint = header_.plan_checksum;
  const auto text = [](const flatbuffers::String* s) { return s == nullptr ? std::string() : s->str(); };
  engine.info = {text(stored.model()),   text(stored.device()),    text(stored.layout()),
                 text(stored.machine()), stored.max_batch_size(),  stored.max_input_length(),
                 stored.kv_capacity(),   text(stored.kv_policy()), static_cast<DType>(stored.kv_dtype())};
  engine.graph.name = engine.info.model.empty() ? "decoder" : engine.info.model;
  if (stored.kv_dtype() > static_cast<uint8_t>(DType::kI16) || engine.info.max_batch_size < 1 ||
      engine.info.max_input_length < 1 || engine.info.kv_capacity < 0) {
    reject("its limits are out of range");
  }
  // Values by their stored number; node outputs appear when their node is added.
  const auto& values = *stored.values();
  std::vector<ValueId> ids(values.size(), kNone);
  const auto id_of = [&](int32_t stored_id) {
    if (stored_id == kNone) return kNone;
    if (stored_id < 0 || static_cast<size_t>(stored_id) >= ids.size()) reject("a node names a value that is not there");
    return ids[static_cast<size_t>(stored_id)];
  };
  const auto shape_of = [](const engine_file::Value& v) {
    return v.shape() == nullptr ? Shape{} : Shape(v.shape()->begin(), v.shape()->end());
  };
  for (const int32_t input : *stored.inputs()) {
    if (input < 0 || static_cast<size_t>(input) >= ids.size()) reject("an input is out of range");
    const auto& v = *values.Get(static_cast<flatbuffers::uoffset_t>(input));
    const auto dtype = static_cast<DType>(v.dtype());
    const Shape shape = shape_of(v);
    const bool tokens = dtype == DType::kI32 && shape == Shape{kTokens};
    const bool hidden = is_float(dtype) && shape.size() == 2 && shape[0] == kTokens && shape[1] > 0;
    if (!tokens && !hidden) reject("an input that is neither tokens nor hidden states");
    ids[static_cast<size_t>(input)] = engine.graph.add_input(v.name()->str(), dtype, shape);
  }
  for (flatbuffers::uoffset_t i = 0; i < values.size(); ++i) {
    const auto& v = *values.Get(i);
    if (v.dtype() > static_cast<uint8_t>(DType::kI16)) reject("a value of unknown dtype");
    if (v.segment() < 0) continue;
    ids[i] = engine.graph.add_constant(
        v.name()->str(), Tensor::view(static_cast<DType>(v.dtype()), shape_of(v), segment(v.segment()), file_));
  }
  for (const auto* node : *stored.nodes()) {
    Op op{};
    if (!op_from_name(node->op()->str(), op)) reject(fmt::format("unknown operator {}", node->op()->str()));
    std::vector<ValueId> inputs;
    if (node->inputs() != nullptr) {
      for (const int32_t input : *node->inputs()) inputs.push_back(id_of(input));
    }
    const auto made = engine.graph.add_node(op, node->name()->str(), std::move(inputs), attributes(*node));
    if (node->outputs() == nullptr || node->outputs()->size() != made.size())
      reject("a node with the wrong number of outputs");
    for (flatbuffers::uoffset_t i = 0; i < made.size(); ++i) {
      const int32_t output = node->outputs()->Get(i);
      if (output < 0 || static_cast<size_t>(output) >= ids.size()) reject("a node output is out of range");
      ids[static_cast<size_t>(output)] = made[i];
    }
  }
  for (const int32_t output : *stored.outputs()) {
    if (id_of(output) == kNone) reject("an output is never made");
    const Shape& shape = engine.graph.value(id_of(output)).shape;
    if (shape.size() != 2 || shape[0] >= 0 || std::ranges::count(engine.graph.outputs(), id_of(output)) > 0) {
      reject("an output that is no activation, or there twice");
    }
    engine.graph.mark_output(id_of(output));
  }
  if (engine.graph.outputs().empty() || engine.graph.outputs().size() > 3) {
    reject("expected the logits as output, and perhaps hidden states");
  }
  return engine;
}

}  // namespace

uint64_t write_engine(const Graph& graph, const EngineInfo& info, const fs::path& path) {
  OutputFile file(path);
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kEngineVersion;
  file.write(std::as_bytes(std::span(&header, 1)));
  std::vector<engine_file::Segment> segments;
  std::vector<int32_t> segment_of(graph.values().size(), -1);
  int64_t total = 0;
  for (const Value& value : graph.values()) {
    if (value.is_constant()) total += static_cast<int64_t>(byte_size(value.dtype, size_t(element_count(value.shape))));
  }
  Progress progress("build: packing weights", total, "bytes");
  for (size_t i = 0; i < graph.values().size(); ++i) {
    if (!graph.values()[i].is_constant()) continue;
    const Tensor tensor = graph.constant(static_cast<ValueId>(i));
    file.pad_to(kSegmentAlignment);
    segment_of[i] = static_cast<int32_t>(segments.size());
    segments.emplace_back(file.position(), tensor.bytes().size(), checksum(tensor.bytes()));
    file.write(tensor.bytes());
    progress.advance(static_cast<int64_t>(tensor.bytes().size()), graph.values()[i].name);
  }
  file.pad_to(kSegmentAlignment);
  FlatBufferBuilder builder;
  write_plan(builder, graph, info, segments, segment_of);
  const auto plan = std::as_bytes(std::span(builder.GetBufferPointer(), builder.GetSize()));
  header.plan_offset = file.position();
  header.plan_size = plan.size();
  header.plan_checksum = checksum(plan);
  file.write(plan);
  header.file_size = file.position();
  file.write_at(0, std::as_bytes(std::span(&header, 1)));
  file.commit();
  return header.file_size;
}

std::vector<std::byte> seal_engine_plan(std::span<const std::byte> plan) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kEngineVersion;
  header.plan_offset = sizeof(Header);
  header.plan_size = plan.size();
  header.plan_checksum = checksum(plan);
  header.file_size = sizeof(Header) + plan.size();
  std::vector<std::byte> file(header.file_size);
  std::memcpy(file.data(), &header, sizeof(Header));
  std::copy(plan.begin(), plan.end(), file.begin() + sizeof(Header));
  return file;
}

Engine read_engine(const fs::path& path) {
  const Reader reader(path);
  // The plan is checked like any input: what add_node refuses is the file's fault.
  try {
    return reader.read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInternal) throw;
    reader.reject(error.what());
  }
}

void check_engine_segments(const fs::path& path) {
  const Reader reader(path);
  for (const auto* value : *reader.plan().values()) {
    if (value->segment() < 0) continue;
    const auto bytes = reader.segment(value->segment());
    const auto* entry = reader.plan().segments()->Get(static_cast<flatbuffers::uoffset_t>(value->segment()));
    if (checksum(bytes) != entry->checksum()) {
      reader.reject(fmt::format("the checksum of {} does not match: the file is damaged", value->name()->str()));
    }
  }
}

}  // namespace edgewise
