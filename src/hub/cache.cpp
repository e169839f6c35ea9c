#include "hub/cache.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "formats/json.h"

namespace edgewise::hub {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxNameLength = 96;

bool is_name_part(std::string_view text) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.size() <= kMaxNameLength && text.front() != '-' && text.front() != '.' &&
         text.find("..") == std::string_view::npos && text.find("--") == std::string_view::npos &&
         std::all_of(text.begin(), text.end(), allowed);
}

bool is_revision(std::string_view text) {
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.' || c == '/';
  };
  return text.size() <= 200 && std::all_of(text.begin(), text.end(), allowed) && is_safe_path(text);
}

fs::path hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return home;
  if (const std::string cache = environment("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "huggingface";
  const std::string home = environment("HOME");
  if (home.empty()) usage_error("neither HF_HUB_CACHE, HF_HOME nor HOME says where the model cache is");
  return fs::path(home) / ".cache" / "huggingface";
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(ErrorKind::kIo, "{}: can't create: {}", path.string(), error.message());
}

// Whether each shard that an index names is there, or without an index any weights are.
bool has_weights(const fs::path& snapshot) {
  const fs::path index = snapshot / "model.safetensors.index.json";
  std::error_code ignored;
  if (!fs::exists(index, ignored)) {
    for (const auto& entry : fs::directory_iterator(snapshot, ignored)) {
      if (entry.path().extension() == ".safetensors" && fs::exists(entry.path(), ignored)) return true;
    }
    return false;
  }
  const Json json = read_json_file(index);
  const JsonView map = JsonView(json, index.string()).at("weight_map");
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map.value().items()) {
    if (!shard.is_string() || !is_safe_path(shard.get<std::string>())) map.reject(tensor, "a file name");
    shards.insert(shard.get<std::string>());
  }
  return std::all_of(shards.begin(), shards.end(),
                     [&](const std::string& shard) { return fs::exists(snapshot / shard); });
}

}  // namespace

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

fs::path hub_cache_directory() {
  const std::string own = environment("HF_HUB_CACHE");
  return own.empty() ? hub_home() / "hub" : fs::path(own);
}

std::string hub_token() {
  std::string token = environment("HF_TOKEN");
  if (token.empty()) {
    const std::string own = environment("HF_TOKEN_PATH");
    const fs::path file = own.empty() ? hub_home() / "token" : fs::path(own);
    std::error_code ignored;
    if (fs::is_regular_file(file, ignored)) token = read_text_file(file, 4096);
  }
  std::erase_if(token, [](unsigned char c) { return std::isspace(c) != 0; });
  return token;
}

bool is_offline() {
  std::string value = environment("HF_HUB_OFFLINE");
  std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
  return value == "1" || value == "TRUE" || value == "YES" || value == "ON";
}

std::optional<ModelName> parse_model_name(std::string_view text) {
  const size_t at = text.find('@');
  const std::string_view id = text.substr(0, at);
  const std::string_view revision = at == std::string_view::npos ? "main" : text.substr(at + 1);
  const size_t slash = id.find('/');
  if (slash == std::string_view::npos || !is_name_part(id.substr(0, slash)) || !is_name_part(id.substr(slash + 1))) {
    return std::nullopt;
  }
  if (!is_revision(revision)) return std::nullopt;
  return ModelName{std::string(id), std::string(revision)};
}

bool is_commit(std::string_view revision) {
  return revision.size() == 40 && revision.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > 1000) return false;
  for (const unsigned char c : path) {
    if (c < 0x20 || c == 0x7F || c == '\\') return false;
  }
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('/', start), path.size());
    const std::string_view part = path.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

bool is_wanted_file(std::string_view path) {
  if (path.starts_with("additional_chat_templates/"))
    return path.ends_with(".jinja") && std::count(path.begin(), path.end(), '/') == 1;
  if (path.find('/') != std::string_view::npos) return false;
  if (path == "config.json" || path == "generation_config.json" || path == "special_tokens_map.json" ||
      path == "preprocessor_config.json") {
    return true;
  }
  if (path.starts_with("tokenizer") && path.ends_with(".json")) return true;
  if (path.starts_with("chat_template")) return path.ends_with(".jinja") || path.ends_with(".json");
  return path.ends_with(".safetensors") || path.ends_with(".safetensors.index.json");
}

std::vector<std::string> choose_files(const std::vector<std::string>& all) {
  const bool standard = std::any_of(all.begin(), all.end(), [](const std::string& file) {
    return file == "model.safetensors" || file == "model.safetensors.index.json";
  });
  std::vector<std::string> chosen;
  for (const std::string& file : all) {
    if (is_wanted_file(file) && !(standard && file.starts_with("consolidated"))) chosen.push_back(file);
  }
  // Small files first: a broken model is noticed before its gigabytes are here.
  std::stable_partition(chosen.begin(), chosen.end(),
                        [](const std::string& file) { return !file.ends_with(".safetensors"); });
  return chosen;
}

ModelCache::ModelCache(const std::string& model_id) {
  std::string folder = "models--" + model_id;
  const size_t slash = folder.find('/');
  folder.replace(slash, 1, "--");
  directory_ = hub_cache_directory() / folder;
}

std::optional<fs::path> ModelCache::find_complete(const std::string& revision) const {
  std::string commit = revision;
  std::error_code ignored;
  if (!is_commit(revision)) {
    const fs::path ref = directory_ / "refs" / revision;
    if (!fs::is_regular_file(ref, ignored)) return std::nullopt;
    commit = read_text_file(ref, 4096);
    std::erase_if(commit, [](unsigned char c) { return std::isspace(c) != 0; });
    if (!is_commit(commit)) return std::nullopt;
  }
  const fs::path found = snapshot(commit);
  if (!fs::exists(found / "config.json", ignored) || !has_weights(found)) return std::nullopt;
  return found;
}

void ModelCache::link(const std::string& commit, const std::string& file, const std::string& blob_name) const {
  const fs::path place = snapshot(commit) / file;
  make_directories(place.parent_path());
  fs::path target = fs::path("..") / ".." / "blobs" / blob_name;
  for (auto i = std::count(file.begin(), file.end(), '/'); i > 0; --i) target = ".." / target;
  // Under another name first: a reader never finds the place empty.
  fs::path temporary = place;
  temporary += fmt::format(".tmp-{}", ::getpid());
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_symlink(target, temporary, error);
  if (error) {  // a file system without links holds the file itself
    error.clear();
    fs::copy_file(blob(blob_name), temporary, fs::copy_options::overwrite_existing, error);
  }
  if (!error) fs::rename(temporary, place, error);
  if (error) fail(ErrorKind::kIo, "{}: can't create: {}", place.string(), error.message());
}

void ModelCache::set_ref(const std::string& revision, const std::string& commit) const {
  if (is_commit(revision)) return;
  const fs::path ref = directory_ / "refs" / revision;
  make_directories(ref.parent_path());
  write_text_file(ref, commit);
}

}  // namespace edgewise::hub
