#include "hub/hub.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/progress.h"
#include "formats/json.h"
#include "hub/cache.h"
#include "hub/checksum.h"
#include "hub/http.h"
#include "hub/test_server.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;
using hub::TestReply;
using hub::TestRequest;
using hub::TestServer;

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

std::string git_blob_id(const std::string& text) {
  const std::string blob = "blob " + std::to_string(text.size()) + std::string(1, '\0') + text;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ::EVP_Digest(blob.data(), blob.size(), digest, &size, ::EVP_sha1(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

// A hub with one model; tests change how it behaves.
class HubTest : public testing::Test {
 protected:
  void SetUp() override {
    home_ = fs::temp_directory_path() / ("edgewise-hub-" + std::to_string(::getpid()));
    fs::remove_all(home_);
    fs::create_directories(home_);
    for (const char* name : {"HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"})
      ::unsetenv(name);
    ::setenv("HF_HOME", home_.c_str(), 1);
    for (unsigned i = 0; i < 3'000'000; ++i) weights_ += static_cast<char>(i * 7919 >> 5);
    files_ = {{"config.json", "{\"model_type\": \"x\"}"},
              {"tokenizer.json", "{}"},
              {"README.md", "no"},
              {"pytorch_model.bin", "no"}};
    hub_ = std::make_unique<TestServer>([this](const TestRequest& request) { return answer(request); });
    cdn_ = std::make_unique<TestServer>([this](const TestRequest& request) { return serve_weights(request); });
    ::setenv("HF_ENDPOINT", hub_->url().c_str(), 1);
  }
  void TearDown() override {
    hub_.reset();
    cdn_.reset();
    fs::remove_all(home_);
  }

  TestReply answer(const TestRequest& request) {
    if (refusal_.status != 200) return refusal_;
    if (request.target == "/api/models/org/model/revision/main") {
      Json siblings = Json::array();
      for (const auto& [name, text] : files_) siblings.push_back({{"rfilename", name}});
      siblings.push_back({{"rfilename", "model.safetensors"}});
      for (const std::string& name : more_siblings_) siblings.push_back({{"rfilename", name}});
      return {200, {}, Json({{"sha", kCommit}, {"siblings", siblings}}).dump(), SIZE_MAX, chunked_};
    }
    const std::string prefix = std::string("/org/model/resolve/") + kCommit + "/";
    const std::string name = request.target.starts_with(prefix) ? request.target.substr(prefix.size()) : "";
    if (name == "model.safetensors") {
      return {302,
              {{"Location", cdn_->url() + "/blob?x=1"},
               {"X-Linked-Etag", "\"" + hub::sha256_hex(weights_) + "\""},
               {"X-Linked-Size", std::to_string(weights_.size())},
               {"ETag", "\"other\""}},
              "moved"};
    }
    for (const auto& [known, text] : files_) {
      if (known == name) return {200, {{"ETag", "\"" + git_blob_id(text) + "\""}}, text};
    }
    return {404, {{"X-Error-Code", "EntryNotFound"}}, "no"};
  }

  TestReply serve_weights(const TestRequest& request) {
    const std::string range = request.header("range");
    size_t from = 0;
    if (!range.empty() && ranges_) from = std::stoull(range.substr(6));
    TestReply reply{200, {{"ETag", "\"s3\""}}, served_.value_or(weights_).substr(from)};
    if (from > 0) {
      reply.status = 206;
      reply.headers.emplace_back("Content-Range",
                                 fmt::format("bytes {}-{}/{}", from, weights_.size() - 1, weights_.size()));
    }
    reply.cut_after = cut_after_;
    return reply;
  }

  std::string error(const std::string& name = "org/model") {
    try {
      resolve_model(name);
    } catch (const Error& failure) {
      return failure.what();
    }
    return "no error";
  }
  fs::path cache() const { return home_ / "hub" / "models--org--model"; }

  fs::path home_;
  std::string weights_;
  std::vector<std::pair<std::string, std::string>> files_;
  std::vector<std::string> more_siblings_;
  std::optional<std::string> served_;
  TestReply refusal_;
  size_t cut_after_ = SIZE_MAX;
  bool ranges_ = true;
  bool chunked_ = false;
  std::unique_ptr<TestServer> hub_;
  std::unique_ptr<TestServer> cdn_;
};

TEST_F(HubTest, DownloadsOnceIntoTheHubsLayout) {
  const fs::path snapshot = resolve_model("org/model");
  EXPECT_EQ(snapshot, cache() / "snapshots" / kCommit);
  EXPECT_EQ(read_text_file(snapshot / "model.safetensors"), weights_);
  EXPECT_EQ(read_text_file(snapshot / "config.json"), files_[0].second);
  EXPECT_EQ(read_text_file(cache() / "refs" / "main"), kCommit);
  EXPECT_EQ(fs::read_symlink(snapshot / "model.safetensors"), "../../blobs/" + hub::sha256_hex(weights_));
  EXPECT_FALSE(fs::exists(snapshot / "README.md"));
  EXPECT_FALSE(fs::exists(snapshot / "pytorch_model.bin"));
  const size_t asked = hub_->requests().size();
  EXPECT_EQ(resolve_model("org/model"), snapshot);
  EXPECT_EQ(resolve_model(std::string("org/model@") + kCommit), snapshot);
  EXPECT_EQ(hub_->requests().size(), asked);
}

TEST_F(HubTest, ReadsChunkedAnswers) {
  chunked_ = true;
  for (int i = 0; i < 200; ++i) more_siblings_.push_back("onnx/file" + std::to_string(i));
  EXPECT_EQ(error(), "no error");
}

TEST_F(HubTest, ResumesAfterTheConnectionWasCut) {
  cut_after_ = 700'000;
  EXPECT_EQ(read_text_file(resolve_model("org/model") / "model.safetensors"), weights_);
  int ranged = 0;
  for (const TestRequest& request : cdn_->requests()) ranged += request.header("range").empty() ? 0 : 1;
  EXPECT_GE(ranged, 4);
}

TEST_F(HubTest, ALaterRunResumesAPartialFile) {
  fs::create_directories(cache() / "blobs");
  write_text_file(cache() / "blobs" / (hub::sha256_hex(weights_) + ".incomplete"), weights_.substr(0, 1'000'000));
  EXPECT_EQ(read_text_file(resolve_model("org/model") / "model.safetensors"), weights_);
  EXPECT_EQ(cdn_->requests().back().header("range"), "bytes=1000000-");
}

TEST_F(HubTest, AServerWithoutRangesStartsOver) {
  ranges_ = false;
  fs::create_directories(cache() / "blobs");
  write_text_file(cache() / "blobs" / (hub::sha256_hex(weights_) + ".incomplete"), "old bytes");
  EXPECT_EQ(read_text_file(resolve_model("org/model") / "model.safetensors"), weights_);
}

TEST_F(HubTest, GivesUpWhenNothingArrives) {
  cut_after_ = 0;
  EXPECT_NE(error().find("run again to continue"), std::string::npos);
}

TEST_F(HubTest, CorruptedContentIsRemoved) {
  served_ = weights_;
  served_->at(1'500'000) ^= 1;
  EXPECT_NE(error().find("differs from the hub's checksum"), std::string::npos);
  EXPECT_FALSE(fs::exists(cache() / "blobs" / (hub::sha256_hex(weights_) + ".incomplete")));
  EXPECT_FALSE(fs::exists(cache() / "snapshots" / kCommit / "model.safetensors"));
  served_.reset();
  EXPECT_EQ(error(), "no error");
}

TEST_F(HubTest, RefusalsSayWhatToDo) {
  refusal_ = {401, {{"X-Error-Code", "RepoNotFound"}}, "{}"};
  EXPECT_NE(error().find("set HF_TOKEN"), std::string::npos);
  refusal_ = {403, {{"X-Error-Code", "GatedRepo"}}, "{}"};
  EXPECT_NE(error().find("ask for it at " + hub_->url() + "/org/model"), std::string::npos);
  refusal_ = {404, {}, "{}"};
  EXPECT_NE(error().find("HTTP 404"), std::string::npos);
  refusal_ = {500, {}, "{}"};
  EXPECT_NE(error().find("HTTP 500"), std::string::npos);
  refusal_ = {302, {{"Location", "/api/models/org/model/revision/main"}}, ""};
  EXPECT_NE(error().find("redirects"), std::string::npos);
}

TEST_F(HubTest, TheTokenGoesToTheHubOnly) {
  ::setenv("HF_TOKEN", "hf_secret\n", 1);
  resolve_model("org/model");
  for (const TestRequest& request : hub_->requests()) EXPECT_EQ(request.header("authorization"), "Bearer hf_secret");
  ASSERT_FALSE(cdn_->requests().empty());
  for (const TestRequest& request : cdn_->requests()) EXPECT_EQ(request.header("authorization"), "");
  ::unsetenv("HF_TOKEN");
  write_text_file(home_ / "token", " hf_file\n");
  EXPECT_EQ(hub::hub_token(), "hf_file");
}

TEST_F(HubTest, HostileFileNamesAreRefused) {
  for (const char* name :
       {"../evil.safetensors", "/etc/evil.safetensors", "a/../../x.safetensors", "a\\..\\x.safetensors", "", "a//b"}) {
    more_siblings_ = {name};
    EXPECT_NE(error().find("would leave its directory"), std::string::npos) << name;
  }
}

TEST_F(HubTest, OfflineUsesTheCacheOnly) {
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_NE(error().find("HF_HUB_OFFLINE"), std::string::npos);
  ::unsetenv("HF_HUB_OFFLINE");
  resolve_model("org/model");
  ::setenv("HF_HUB_OFFLINE", "1", 1);
  EXPECT_EQ(error(), "no error");
  ::unsetenv("HF_HUB_OFFLINE");
}

TEST_F(HubTest, AnIncompleteSnapshotIsCompleted) {
  const fs::path snapshot = resolve_model("org/model");
  fs::remove(snapshot / "model.safetensors");
  EXPECT_EQ(read_text_file(resolve_model("org/model") / "model.safetensors"), weights_);
}

TEST_F(HubTest, DirectoriesAreTakenAsTheyAre) {
  EXPECT_EQ(resolve_model(home_.string()), home_);
  EXPECT_NE(error("no/such/dir").find("no such directory"), std::string::npos);
  EXPECT_NE(error("../no-such-model").find("no such directory"), std::string::npos);
  EXPECT_NE(error("org/model@../x").find("no such directory"), std::string::npos);
  EXPECT_TRUE(hub_->requests().empty());
}

TEST_F(HubTest, NoNetworkIsAClearError) {
  hub_.reset();
  EXPECT_NE(error().find("can't connect"), std::string::npos);
  ::setenv("HF_ENDPOINT", "ftp://x", 1);
  EXPECT_NE(error().find("not http or https"), std::string::npos);
}

TEST(HubNames, ParseOrNot) {
  EXPECT_EQ(hub::parse_model_name("a/b")->revision, "main");
  EXPECT_EQ(hub::parse_model_name("Qwen/Qwen2.5-0.5B@refs/pr/1")->revision, "refs/pr/1");
  for (const char* bad : {"a", "a/b/c", "/b", "a/", "a b/c", "a/b@", "a/..", "-a/b", "a/b@x y", "a--b/c"}) {
    EXPECT_FALSE(hub::parse_model_name(bad)) << bad;
  }
}

TEST(HubNames, FilesToDownload) {
  EXPECT_EQ(
      hub::choose_files({"model-1.safetensors", "config.json", "x/config.json", "consolidated.safetensors",
                         "tokenizer_config.json", "model.safetensors.index.json", "chat_template.jinja", "model.gguf",
                         "additional_chat_templates/rag.jinja"}),
      (std::vector<std::string>{"config.json", "tokenizer_config.json", "model.safetensors.index.json",
                                "chat_template.jinja", "additional_chat_templates/rag.jinja", "model-1.safetensors"}));
}

TEST(HubUrls, Redirects) {
  const hub::Url base = hub::parse_url("https://Host.example:8443/a/b?x#y");
  EXPECT_EQ(base.text(), "https://host.example:8443/a/b?x");
  EXPECT_EQ(hub::resolve_location(base, "c?d=http://e").text(), "https://host.example:8443/a/c?d=http://e");
  EXPECT_EQ(hub::resolve_location(base, "/c").text(), "https://host.example:8443/c");
  EXPECT_EQ(hub::resolve_location(base, "//other/c").text(), "https://other/c");
  EXPECT_EQ(hub::resolve_location(base, "http://[::1]:80/").text(), "http://[::1]/");
  for (const char* bad :
       {"http://", "http://u:p@h/", "http://h:x/", "http://a b/", "file:///etc/passwd", "http://[::1/"}) {
    EXPECT_THROW(hub::parse_url(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace edgewise
