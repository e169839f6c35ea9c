// Adapters from a checkpoint's names to an engine's operators, through every stage; and in a session.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <random>

#include "backends/sequence_runner.h"
#include "base/error.h"
#include "compiler/build.h"
#include "formats/companions.h"
#include "models/adapter.h"
#include "models/families.h"
#include "models/merge_adapter.h"
#include "models/vocab_map.h"
#include "onnx/export.h"
#include "quantize/quantize.h"
#include "runtime/session.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

const fs::path kSource = EDGEWISE_SOURCE_DIR;

class Workspace {
 public:
  Workspace() : path_(fs::temp_directory_path() / ("edgewise-lora-" + std::to_string(::getpid()))) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Workspace() { fs::remove_all(path_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

fs::path engine_of(const fs::path& model, const fs::path& work, DType dtype, int batch = 1,
                   const std::vector<int32_t>& kept = {}) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
  fs::create_directories(work / "onnx");
  export_onnx(build_decoder(spec, checkpoint, {dtype, {}, kept}), work / "onnx", {});
  copy_companions(model, work / "onnx");
  if (!kept.empty()) write_vocab_map(work / "onnx" / kVocabMapFile, kept);
  BuildOptions options;
  options.max_batch_size = batch;
  options.max_input_length = 128;
  options.kv_capacity = 192;
  options.kv_dtype = dtype;
  options.opt_level = 0;
  build_engine(work / "onnx", work / "engine", options);
  return work / "engine";
}

// Every matrix in the checkpoint's layers, experts aside, and the head.
std::map<std::string, Shape> linears_of(const fs::path& model) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  std::map<std::string, Shape> result;
  for (const std::string& name : checkpoint.tensor_names()) {
    const Shape shape = checkpoint.tensor(name).shape();
    const bool linear = name.find(".layers.") != std::string::npos || name == "lm_head.weight";
    if (linear && shape.size() == 2 && name.find("experts.") == std::string::npos)
      result[name.substr(0, name.rfind('.'))] = shape;
  }
  return result;
}

// Random matrices of ranks 1 to 9.
void write_adapter(const std::map<std::string, Shape>& modules, const fs::path& directory, float largest = 0.1f) {
  std::map<std::string, Tensor> tensors;
  Json ranks = Json::object();
  std::mt19937 random(5);
  std::uniform_real_distribution<float> uniform(-largest, largest);
  for (const auto& [module, shape] : modules) {
    const auto rank = static_cast<int64_t>(random() % 9 + 1);
    ranks[module] = rank;
    for (const auto& [part, part_shape] : {std::pair{"A", Shape{rank, shape[1]}}, {"B", Shape{shape[0], rank}}}) {
      std::vector<float> values(static_cast<size_t>(element_count(part_shape)));
      for (float& value : values) value = uniform(random);
      tensors["base_model.model." + module + ".lora_" + part + ".weight"] =
          Tensor::from_floats(DType::kF32, part_shape, values);
    }
  }
  fs::create_directories(directory);
  std::ofstream(directory / "adapter_config.json")
      << Json{{"peft_type", "LORA"}, {"r", 1}, {"lora_alpha", 8}, {"rank_pattern", ranks}};
  SafetensorsWriter writer(directory / "adapter_model.safetensors");
  for (const auto& [name, tensor] : tensors) writer.declare(name, tensor.dtype(), tensor.shape());
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

// Logits of a prompt and of three tokens behind it.
std::vector<float> logits_of(const fs::path& engine_dir, const fs::path& adapter) {
  const Engine engine = read_engine(engine_dir / kEngineFileName);
  const int64_t vocabulary = engine.graph.value(engine.graph.outputs()[0]).shape[1];
  const auto executable = find_backend("cpu").load(
      engine.graph, {.max_tokens = 32, .max_rows = 32, .kv_pages = 1, .kv_dtype = engine.info.kv_dtype, .threads = 2});
  if (!adapter.empty()) {
    Adapter weights = read_adapter(adapter);
    if (fs::exists(engine_dir / kChannelScalesFile)) follow_channel_scales(engine_dir / kChannelScalesFile, weights);
    executable->add_adapter(1, weights);
  }
  SequenceRunner runner(*executable, vocabulary, 32, 40, adapter.empty() ? -1 : 1);
  std::vector<int32_t> prompt;
  for (int i = 0; i < 20; ++i) prompt.push_back(static_cast<int32_t>((i * 37 + 11) % vocabulary));
  std::vector<float> result = runner.append(prompt, 20);
  for (const int32_t token : {5, 77, 9}) {
    const auto logits = runner.append({token});
    result.insert(result.end(), logits.begin(), logits.end());
  }
  return result;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 1e-30;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(difference / size);
}

// Fused matrices, biases, tied and capped heads, mixtures: the engine with the adapter is the merged checkpoint's.
TEST(Lora, EqualsTheMergedCheckpointInEveryFamily) {
  for (const auto& entry : fs::directory_iterator(kSource / "tests/data/checkpoints")) {
    const fs::path model = entry.path();
    if (Checkpoint::open(model).config().contains("quantization_config")) continue;
    SCOPED_TRACE(model.filename());
    const Workspace work;
    write_adapter(linears_of(model), work / "adapter");
    merge_adapter({model, work / "adapter", work / "merged", DType::kF32});
    const fs::path base = engine_of(model, work / "base", DType::kF32);
    const auto with = logits_of(base, work / "adapter");
    EXPECT_LT(relative_error(with, logits_of(engine_of(work / "merged", work / "m", DType::kF32), "")), 1e-5);
    EXPECT_GT(relative_error(with, logits_of(base, "")), 0.05);
  }
}

TEST(Lora, EqualsTheMergedCheckpointOfTheEmbeddedModel) {
  const fs::path model = kSource / "models/edge-tiny-16m";
  for (const std::string name : {"upper", "shakespeare"}) {
    const Workspace work;
    const fs::path adapter = kSource / ("models/edge-tiny-16m-lora-" + name);
    merge_adapter({model, adapter, work / "m32", DType::kF32});
    const auto with = logits_of(engine_of(model, work / "b32", DType::kF32), adapter);
    EXPECT_LT(relative_error(with, logits_of(engine_of(work / "m32", work / "e32", DType::kF32), "")), 1e-5);
    // The merged checkpoint rounds its weights to bfloat16, the adapter stays apart: that much they may differ.
    merge_adapter({model, adapter, work / "m16", {}});
    const auto with16 = logits_of(engine_of(model, work / "b16", DType::kBF16), adapter);
    const double error = relative_error(with16, logits_of(engine_of(work / "m16", work / "e16", DType::kBF16), ""));
    EXPECT_LT(error, 1e-2);
  }
}

// SmoothQuant divides inputs by factors that it multiplies into weights; an adapter of the float model must follow.
TEST(Lora, FollowsTheChannelsOfAQuantizedModel) {
  const Workspace work;
  const fs::path model = kSource / "models/edge-tiny-16m";
  const fs::path adapter = kSource / "models/edge-tiny-16m-lora-shakespeare";
  QuantizeRequest request{model, work / "q", scheme_from_name("int8_sq", 128), false, {}, {}};
  request.calibration.samples = 6;
  quantize_checkpoint(request);
  const auto expected = logits_of(engine_of(model, work / "base", DType::kF32), adapter);
  const fs::path engine = engine_of(work / "q", work / "e", DType::kF32);
  EXPECT_LT(relative_error(logits_of(engine, adapter), expected), 0.1);
  fs::remove(engine / kChannelScalesFile);
  EXPECT_GT(relative_error(logits_of(engine, adapter), expected), 0.2);
}

class LoraSession : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    work_ = std::make_unique<Workspace>();
    engine_ = engine_of(kSource / "models/edge-tiny-16m", *work_ / "session", DType::kBF16, 3);
  }
  static void TearDownTestSuite() { work_.reset(); }

  void load(const std::string& name, size_t modules) {
    EXPECT_EQ(session_.adapters().add(name, kSource / ("models/edge-tiny-16m-lora-" + name)), modules);
  }
  Request request(const std::string& adapter) const {
    Request request;
    request.prompt = session_.encode_chat({{{"role", "user"}, {"content", "Tell me about Paris"}}});
    request.max_tokens = 40;
    request.adapter = adapter;
    return request;
  }
  // More than a page of a prompt, so that there is one to keep.
  Request long_request(const std::string& adapter) const {
    Request result = request(adapter);
    const std::string rain = " Rain is water that falls from the clouds. Snow is water too.";
    result.prompt = session_.encode_text("Tell me more." + rain + rain + rain + rain + rain);
    result.prompt.resize(kPageTokens + 16);
    return result;
  }

  static inline std::unique_ptr<Workspace> work_;
  static inline fs::path engine_;
  Session session_{engine_, {.threads = 2}};
};

TEST_F(LoraSession, MixedInABatchEachAnswersAsAlone) {
  load("upper", 32);
  load("shakespeare", 56);
  EXPECT_EQ(session_.adapters().names(), (std::vector<std::string>{"shakespeare", "upper"}));
  std::vector<std::vector<int32_t>> alone;
  for (const char* name : {"", "upper", "shakespeare"}) alone.push_back(session_.generate(request(name)).tokens);
  EXPECT_NE(alone[0], alone[1]);
  EXPECT_NE(alone[0], alone[2]);
  EXPECT_NE(alone[1], alone[2]);
  Session fresh(engine_, {.threads = 2});
  EXPECT_EQ(fresh.generate(request("")).tokens, alone[0]);
  const auto together = session_.generate({request("upper"), request(""), request("shakespeare"), request("upper")});
  EXPECT_EQ(together[0].tokens, alone[1]);
  EXPECT_EQ(together[1].tokens, alone[0]);
  EXPECT_EQ(together[2].tokens, alone[2]);
  EXPECT_EQ(together[3].tokens, alone[1]);
  const std::string upper = together[0].text;
  EXPECT_TRUE(std::ranges::none_of(upper, [](char c) { return c >= 'a' && c <= 'z'; })) << upper;
}

TEST_F(LoraSession, IsForgottenWhenUnused) {
  load("upper", 32);
  const auto first = session_.generate(request("upper"));
  const auto busy = [&] {
    try {
      session_.adapters().remove("upper");
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kBusy;
    }
  };
  auto generation = session_.prepare(request("upper"));
  EXPECT_TRUE(busy());
  session_.begin(*generation);
  session_.step();
  EXPECT_TRUE(busy());
  session_.cancel(*generation);
  generation.reset();
  EXPECT_FALSE(busy());
  EXPECT_THROW(session_.adapters().remove("upper"), Error);
  EXPECT_THROW(session_.prepare(request("upper")), Error);
  // The same name with other weights: nothing cached of the first answers for it.
  EXPECT_EQ(session_.adapters().add("upper", kSource / "models/edge-tiny-16m-lora-shakespeare"), 56u);
  const auto second = session_.generate(request("upper"));
  EXPECT_EQ(second.cached_tokens, 0);
  EXPECT_NE(second.tokens, first.tokens);
}

// Out of memory and back: the same answer, of the same cached pages.
TEST_F(LoraSession, LeavesMemoryWhenIdle) {
  using std::chrono::seconds;
  Session session(engine_, {.threads = 2, .adapters = {.idle = seconds(60)}});
  AdapterShelf& adapters = session.adapters();
  adapters.add("upper", kSource / "models/edge-tiny-16m-lora-upper");
  const size_t unloaded = session.executable().memory().weights;
  const auto first = session.generate(long_request("upper"));
  EXPECT_GT(session.executable().memory().weights, unloaded);
  const auto now = AdapterShelf::Clock::now();
  EXPECT_LE(adapters.next_unload(), now + seconds(60));
  adapters.unload_unused(now + seconds(59));
  EXPECT_EQ(adapters.stats().loaded, 1);
  {
    const auto held = session.prepare(long_request("upper"));
    adapters.unload_unused(now + seconds(1000));
    EXPECT_EQ(adapters.stats().loaded, 1);
    EXPECT_EQ(adapters.next_unload(), now + seconds(1060));
  }
  adapters.unload_unused(now + seconds(1100));
  EXPECT_EQ(adapters.stats().loaded, 0);
  EXPECT_EQ(adapters.stats().known, 1);
  EXPECT_EQ(adapters.next_unload(), AdapterShelf::Clock::time_point::max());
  EXPECT_EQ(session.executable().memory().weights, unloaded);
  const auto again = session.generate(long_request("upper"));
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(again.cached_tokens, kPageTokens);
  EXPECT_EQ(adapters.stats().loads, 2u);
  // Loaded, but never used: it goes all the same, and comes back.
  adapters.add("shakespeare", kSource / "models/edge-tiny-16m-lora-shakespeare");
  adapters.unload_unused(AdapterShelf::Clock::now() + seconds(61));
  EXPECT_EQ(adapters.stats().loaded, 0);
  EXPECT_NE(session.generate(request("shakespeare")).tokens, first.tokens);
}

TEST_F(LoraSession, TheLeastRecentlyUsedGoFirst) {
  Session session(engine_, {.threads = 2, .adapters = {.most = 2}});
  AdapterShelf& adapters = session.adapters();
  const auto load = [&](const char* name) { adapters.add(name, kSource / "models/edge-tiny-16m-lora-upper"); };
  load("a");
  load("b");
  const auto held = session.prepare(request("a"));
  session.generate(request("b"));
  load("c");
  session.generate(request("c"));  // "a" is older than "b", but in use
  EXPECT_EQ(adapters.stats().loaded, 2);
  EXPECT_EQ(adapters.stats().loads, 3u);
  session.generate(request("c"));
  EXPECT_EQ(adapters.stats().loads, 3u);
  session.generate(request("b"));
  EXPECT_EQ(adapters.stats().loads, 4u);
  const auto answers = session.generate({request("a"), request("b"), request("c")});  // three in use
  EXPECT_EQ(answers[0].tokens, answers[2].tokens);
  EXPECT_EQ(adapters.stats().loaded, 3);
  adapters.unload_unused();
  EXPECT_EQ(adapters.stats().loaded, 2);
}

// What is read again must be what was read first: cached pages and answers under its name are of that.
TEST_F(LoraSession, RefusesFilesThatChanged) {
  const fs::path path = *work_ / "changing";
  fs::copy(kSource / "models/edge-tiny-16m-lora-upper", path);
  Session session(engine_, {.threads = 2, .adapters = {.idle = std::chrono::seconds(1)}});
  session.adapters().add("upper", path);
  const auto unload = [&] { session.adapters().unload_unused(AdapterShelf::Clock::now() + std::chrono::seconds(2)); };
  const auto base = session.generate(request(""));
  const auto first = session.generate(request("upper"));
  const auto refused = [&](const std::string& mentions) {
    unload();
    const auto answers = session.generate({request(""), request("upper"), request("upper")});
    EXPECT_EQ(answers[0].tokens, base.tokens);
    for (size_t i = 1; i < 3; ++i) {
      EXPECT_EQ(answers[i].finish, FinishReason::kError);
      EXPECT_NE(answers[i].error.find(mentions), std::string::npos) << answers[i].error;
      EXPECT_NE(answers[i].error.find(path.string()), std::string::npos) << answers[i].error;
    }
  };
  fs::rename(path, *work_ / "moved");
  refused("no adapter_config.json");
  fs::copy(kSource / "models/edge-tiny-16m-lora-shakespeare", path);
  refused("no longer the adapter that was loaded as upper");
  fs::remove_all(path);
  fs::rename(*work_ / "moved", path);
  EXPECT_EQ(session.generate(request("upper")).tokens, first.tokens);
  Json config = read_json_file(path / "adapter_config.json");
  config["lora_alpha"] = config["lora_alpha"].get<double>() * 2;
  std::ofstream(path / "adapter_config.json") << config;
  refused("no longer");
}

TEST_F(LoraSession, SavedSessionsKnowTheirAdapter) {
  load("upper", 32);
  const fs::path file = *work_ / "upper.session";
  const OrderedJson messages = OrderedJson::array({{{"role", "user"}, {"content", "Tell me about Paris"}}});
  const auto first = session_.generate(long_request("upper"));
  session_.save(file, long_request("").prompt, messages, "upper");
  Session other(engine_, {.threads = 2});
  other.adapters().add("upper", kSource / "models/edge-tiny-16m-lora-shakespeare");
  other.adapters().add("same", kSource / "models/edge-tiny-16m-lora-upper");
  const auto refused = [&](const std::string& adapter, const std::string& mentions) {
    try {
      other.load(file, adapter);
      ADD_FAILURE() << "restored as " << adapter;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(mentions), std::string::npos) << error.what();
    }
  };
  refused("", "saved with adapter upper, this session has no adapter");
  refused("upper", "saved with adapter upper, this session has adapter upper with other contents");
  EXPECT_THROW(other.load(file, "pirate"), Error);
  EXPECT_EQ(other.generate(long_request("same")).cached_tokens, 0);
  Session restored(engine_, {.threads = 2});
  restored.adapters().add("same", kSource / "models/edge-tiny-16m-lora-upper");
  EXPECT_EQ(restored.load(file, "same"), messages);
  const auto again = restored.generate(long_request("same"));
  EXPECT_EQ(again.cached_tokens, kPageTokens);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(restored.generate(long_request("")).cached_tokens, 0);
}

// The head's adapter has a row for each token; an engine with fewer logits takes the rows it has.
TEST_F(LoraSession, FollowsAReducedVocabulary) {
  const fs::path model = kSource / "models/edge-tiny-16m";
  std::vector<int32_t> kept;
  for (int32_t id = 0; id < 8192; ++id) {
    if (id != 300) kept.push_back(id);
  }
  write_adapter({{"lm_head", {8192, 384}}}, *work_ / "head", 0.5f);
  Session reduced(engine_of(model, *work_ / "reduced", DType::kBF16, 1, kept), {.threads = 2});
  session_.adapters().add("head", *work_ / "head");
  reduced.adapters().add("head", *work_ / "head");
  const auto expected = session_.generate(request("head")).tokens;
  ASSERT_EQ(std::ranges::count(expected, 300), 0);
  EXPECT_NE(expected, session_.generate(request("")).tokens);
  EXPECT_EQ(reduced.generate(request("head")).tokens, expected);
}

TEST_F(LoraSession, RefusesWhatDoesNotFit) {
  load("upper", 32);
  EXPECT_THROW(load("upper", 32), Error);
  EXPECT_THROW(session_.adapters().add("", kSource / "models/edge-tiny-16m-lora-upper"), Error);
  write_adapter(linears_of(kSource / "tests/data/checkpoints/qwen3"), *work_ / "other");
  try {
    session_.adapters().add("other", *work_ / "other");
    ADD_FAILURE() << "an adapter of another model was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("other: adapter:"), std::string::npos) << error.what();
  }
  EXPECT_EQ(session_.adapters().names(), std::vector<std::string>{"upper"});
}

}  // namespace
}  // namespace edgewise
