#include "text/vocab.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace edgewise::tok {

int32_t read_id(const Json& value, const std::string& where) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<int32_t>::max() - 1) {
    bad_file("{}: expected a token id between 0 and 2147483646, found {}", where,
             value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  }
  return value.get<int32_t>();
}

void Vocab::add(std::string_view token, int32_t id) {
  const auto [entry, inserted] = ids_.insert_or_assign(std::string(token), id);
  if (!inserted) ids_unique_ = false;
  longest_ = std::max(longest_, token.size());
  max_id_ = std::max(max_id_, id);
  if (this->token(id) != nullptr) ids_unique_ = false;
  const auto index = static_cast<size_t>(id);
  // Sparse ids (a hostile or odd file) must not cost memory in proportion to their value.
  if (index < dense_.size() || index < 8 * ids_.size() + 65536) {
    if (index >= dense_.size()) dense_.resize(std::max(index + 1, dense_.size() * 3 / 2), nullptr);
    dense_[index] = &entry->first;
    sparse_.erase(id);
  } else {
    sparse_[id] = &entry->first;
  }
}

Vocab Vocab::read(const JsonView& owner, const std::string& key) {
  if (!owner.has(key) || !owner.value().at(key).is_object()) owner.reject(key, "an object of tokens and ids");
  Vocab vocab;
  const Json& object = owner.value().at(key);
  vocab.ids_.reserve(object.size());
  for (const auto& [token, id] : object.items()) {
    vocab.add(token, read_id(id, owner.where() + ": " + key));
  }
  return vocab;
}

std::optional<int32_t> Vocab::find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

const std::string* Vocab::token(int32_t id) const {
  if (id < 0) return nullptr;
  if (static_cast<size_t>(id) < dense_.size() && dense_[id] != nullptr) return dense_[id];
  if (sparse_.empty()) return nullptr;
  const auto it = sparse_.find(id);
  return it == sparse_.end() ? nullptr : it->second;
}

}  // namespace edgewise::tok
