// The local Hugging Face cache: models--org--name/{blobs,snapshots/<commit>,refs/<revision>}.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise::hub {

struct ModelName {
  std::string id;        // org/name
  std::string revision;  // a branch, tag or commit
};

// Absent when the text can't be a hub name.
std::optional<ModelName> parse_model_name(std::string_view text);
bool is_commit(std::string_view revision);
// A relative path that stays where it is put.
bool is_safe_path(std::string_view path);
// Whether Edgewise reads this file of a repository.
bool is_wanted_file(std::string_view path);
// Of a repository's files, those to download; leaves out a second copy of the weights ("consolidated").
std::vector<std::string> choose_files(const std::vector<std::string>& all);

class ModelCache {
 public:
  explicit ModelCache(const std::string& model_id);

  const std::filesystem::path& directory() const { return directory_; }
  std::filesystem::path blob(const std::string& name) const { return directory_ / "blobs" / name; }
  std::filesystem::path snapshot(const std::string& commit) const { return directory_ / "snapshots" / commit; }

  // The snapshot of a revision, if all that a model needs is in it.
  std::optional<std::filesystem::path> find_complete(const std::string& revision) const;
  // Puts snapshots/<commit>/<file> as a link to the blob.
  void link(const std::string& commit, const std::string& file, const std::string& blob_name) const;
  void set_ref(const std::string& revision, const std::string& commit) const;

 private:
  std::filesystem::path directory_;
};

// $HF_HUB_CACHE, $HF_HOME/hub, $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub.
std::filesystem::path hub_cache_directory();
// $HF_TOKEN, or the content of $HF_TOKEN_PATH or $HF_HOME/token; empty when there is none.
std::string hub_token();
bool is_offline();
std::string environment(const char* name);

}  // namespace edgewise::hub
