#include "hub/hub.h"

#include <algorithm>

#include "base/error.h"
#include "base/progress.h"
#include "hub/download.h"

namespace edgewise {
namespace fs = std::filesystem;

fs::path resolve_model(const std::string& dir_or_hub_name) {
  std::error_code ignored;
  if (fs::is_directory(dir_or_hub_name, ignored)) return dir_or_hub_name;
  if (fs::exists(dir_or_hub_name, ignored)) {
    usage_error("{}: a file; expected a model's directory or a hub name as org/name", dir_or_hub_name);
  }
  const auto name = hub::parse_model_name(dir_or_hub_name);
  if (!name) usage_error("{}: no such directory, and no hub name as org/name or org/name@revision", dir_or_hub_name);

  const hub::ModelCache cache(name->id);
  if (auto snapshot = cache.find_complete(name->revision)) return *snapshot;
  if (hub::is_offline()) {
    fail(ErrorKind::kIo, "{}: not in {} (or not complete), and HF_HUB_OFFLINE forbids the network", dir_or_hub_name,
         hub::hub_cache_directory().string());
  }
  hub::Downloader downloader(*name);
  const hub::Downloader::Listing listing = downloader.list();
  const auto has = [&](const char* ending) {
    return std::any_of(listing.files.begin(), listing.files.end(),
                       [&](const std::string& file) { return file.ends_with(ending); });
  };
  if (!has("config.json") || !has(".safetensors")) {
    unsupported("{}: the repository holds no config.json with safetensors weights, which are what Edgewise reads",
                dir_or_hub_name);
  }
  const fs::path snapshot = cache.snapshot(listing.commit);
  for (const std::string& file : listing.files) {
    check_interrupted();
    if (fs::exists(snapshot / file, ignored)) continue;
    cache.link(listing.commit, file, downloader.fetch(cache, listing.commit, file));
  }
  cache.set_ref(name->revision, listing.commit);
  return snapshot;
}

}  // namespace edgewise
