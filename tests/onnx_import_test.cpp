// ONNX files that Edgewise must refuse: the error names the operator and the node, or what is wrong with the file.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/mapped_file.h"
#include "models/families.h"
#include "onnx/export.h"
#include "onnx/import.h"

namespace edgewise {
namespace {
namespace fs = std::filesystem;

class OnnxImportTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-onnx-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    const auto source = fs::path(EDGEWISE_SOURCE_DIR) / "tests/data/checkpoints/qwen3";
    const Checkpoint checkpoint = Checkpoint::open(source);
    const DecoderSpec spec = describe_model(checkpoint.config(), checkpoint.config_path());
    export_onnx(build_decoder(spec, checkpoint, {DType::kBF16}), directory_, {});
    ASSERT_TRUE(model_.ParseFromString(read_text_file(file())));
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path file() const { return directory_ / "model.onnx"; }
  onnx_file::Node& node(const std::string& op) {
    for (onnx_file::Node& candidate : *model_.mutable_graph()->mutable_node()) {
      if (candidate.op_type() == op) return candidate;
    }
    throw std::runtime_error("the export has no " + op);
  }
  onnx_file::Tensor& external_tensor() {
    for (onnx_file::Tensor& tensor : *model_.mutable_graph()->mutable_initializer()) {
      if (tensor.external_data_size() > 0) return tensor;
    }
    throw std::runtime_error("the export has no external data");
  }
  std::string& external_field(const std::string& key) {
    for (auto& entry : *external_tensor().mutable_external_data()) {
      if (entry.key() == key) return *entry.mutable_value();
    }
    throw std::runtime_error("no field " + key);
  }

  // The importer's error for the changed model; empty when it takes it. Weights are read too.
  std::string refusal() {
    std::ofstream(file(), std::ios::binary) << model_.SerializeAsString();
    try {
      const Graph graph = import_onnx(file());
      for (const Value& value : graph.values()) {
        if (value.is_constant()) value.constant();
      }
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }

  fs::path directory_;
  onnx_file::Model model_;
};

testing::AssertionResult mentions(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (text.find(word) == std::string::npos) {
      return testing::AssertionFailure() << "\"" << text << "\" does not mention " << word;
    }
  }
  return testing::AssertionSuccess();
}

TEST_F(OnnxImportTest, TakesWhatExportWrites) { EXPECT_EQ(refusal(), ""); }

TEST_F(OnnxImportTest, RefusesUnknownOperators) {
  onnx_file::Node& attention = node("Attention");
  attention.set_op_type("Erf");
  EXPECT_TRUE(mentions(refusal(), {"Erf", attention.name()}));
}

TEST_F(OnnxImportTest, RefusesOtherDomains) {
  onnx_file::Node& norm = node("RMSNormalization");
  norm.set_domain("com.microsoft");
  EXPECT_TRUE(mentions(refusal(), {"com.microsoft", norm.name()}));
}

TEST_F(OnnxImportTest, RefusesOperatorsInForeignPlaces) {
  // Known inside a pattern, meaningless where it stands now.
  onnx_file::Node& norm = node("RMSNormalization");
  norm.set_op_type("Sigmoid");
  EXPECT_TRUE(mentions(refusal(), {"Sigmoid", norm.name()}));
}

TEST_F(OnnxImportTest, RefusesMissingInputs) {
  *node("MatMul").mutable_input(0) = "nowhere";
  EXPECT_TRUE(mentions(refusal(), {"nowhere"}));
}

TEST_F(OnnxImportTest, RefusesCycles) {
  onnx_file::Node& first = node("RMSNormalization");
  *first.mutable_input(0) = "logits";
  EXPECT_NE(refusal(), "");
}

TEST_F(OnnxImportTest, RefusesDataOutsideItsDirectory) {
  for (const char* location : {"../model.onnx.data", "/etc/passwd", "a/../../b", ""}) {
    external_field("location") = location;
    EXPECT_NE(refusal(), "") << location;
  }
  external_field("location") = "missing.data";
  EXPECT_TRUE(mentions(refusal(), {"missing.data"}));
}

TEST_F(OnnxImportTest, RefusesDataBeyondTheFile) {
  for (const char* offset : {"9223372036854775807", "18446744073709551615", "-1", "1e9", "99999999999", "x"}) {
    external_field("offset") = offset;
    EXPECT_NE(refusal(), "") << offset;
  }
}

TEST_F(OnnxImportTest, RefusesImpossibleDims) {
  for (const int64_t dim : {int64_t{-1}, int64_t{1} << 40, INT64_MAX}) {
    external_tensor().set_dims(0, dim);
    EXPECT_NE(refusal(), "") << dim;
  }
}

TEST_F(OnnxImportTest, RefusesTruncatedFiles) {
  const std::string whole = model_.SerializeAsString();
  constexpr int kCuts = 40;
  for (int i = 0; i < kCuts; ++i) {
    std::ofstream(file(), std::ios::binary) << whole.substr(0, whole.size() * static_cast<size_t>(i) / kCuts);
    EXPECT_THROW(import_onnx(file()), Error) << i;
  }
}

}  // namespace
}  // namespace edgewise
