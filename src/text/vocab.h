// The strings of a vocabulary and their ids, both ways.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/json.h"

namespace edgewise::tok {

class Vocab {
 public:
  Vocab() = default;
  Vocab(Vocab&&) = default;  // no copies: the tables by id point at the keys of the map
  Vocab& operator=(Vocab&&) = default;

  // Ids lie in [0, 2^31). A second id for the same string replaces the first.
  void add(std::string_view token, int32_t id);
  // Reads {"token": id, ...}; throws Error(kBadFile).
  static Vocab read(const JsonView& owner, const std::string& key);

  std::optional<int32_t> find(std::string_view token) const;
  // nullptr when no token has this id.
  const std::string* token(int32_t id) const;

  size_t size() const { return ids_.size(); }
  int32_t max_id() const { return max_id_; }  // -1 when empty
  bool ids_unique() const { return ids_unique_; }
  size_t longest() const { return longest_; }  // bytes
  const auto& entries() const { return ids_; }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> dense_;                   // by id, as long as ids are not sparse
  std::unordered_map<int32_t, const std::string*> sparse_;  // the ids that would make dense_ wasteful
  int32_t max_id_ = -1;
  size_t longest_ = 0;
  bool ids_unique_ = true;
};

// An id field of a file, checked to lie in [0, 2^31).
int32_t read_id(const Json& value, const std::string& where);

}  // namespace edgewise::tok
