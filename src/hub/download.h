// Files of a hub repository, downloaded into its cache.
#pragma once

#include <string>
#include <vector>

#include "hub/cache.h"
#include "hub/http.h"

namespace edgewise::hub {

class Downloader {
 public:
  // Reads HF_ENDPOINT and the token.
  explicit Downloader(ModelName model);

  struct Listing {
    std::string commit;
    std::vector<std::string> files;
  };
  Listing list();
  // Downloads into the blobs unless it is there, continuing a partial one; gives the blob's name.
  std::string fetch(const ModelCache& cache, const std::string& commit, const std::string& file);

 private:
  // A response at the end of its redirects, with what the hub said about the file on the way.
  struct Answer {
    std::unique_ptr<HttpGet> get;
    std::string etag;
    std::optional<uint64_t> size;  // of the whole file
  };
  Answer open(const std::string& target, uint64_t from);
  [[noreturn]] void refuse(const HttpGet& get, const std::string& what) const;
  bool fetch_once(const ModelCache& cache, const std::string& target, const std::string& file, std::string& blob_name);

  ModelName model_;
  Url endpoint_;
  std::string base_;  // the endpoint's path, without a final slash
  std::string token_;
};

}  // namespace edgewise::hub
