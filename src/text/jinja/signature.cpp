#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/methods.h"
#include "text/jinja/operators.h"

namespace edgewise::jinja {

Signature::Signature(std::string_view function, const Args& args, std::initializer_list<std::string_view> names,
                     size_t required, size_t positional_only) {
  values_.assign(names.size(), nullptr);
  if (args.positional.size() > names.size()) {
    type_error("{}() takes at most {} arguments ({} given)", function, names.size(), args.positional.size());
  }
  for (size_t i = 0; i < args.positional.size(); ++i) values_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto* found = std::find(names.begin() + std::min(positional_only, names.size()), names.end(), name);
    if (found == names.end()) type_error("{}() got an unexpected keyword argument '{}'", function, name);
    const auto index = static_cast<size_t>(found - names.begin());
    if (values_[index] != nullptr) type_error("{}() got multiple values for argument '{}'", function, name);
    values_[index] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      type_error("{}() missing the required argument '{}'", function, *(names.begin() + i));
    }
  }
}

int64_t Signature::integer(size_t index, int64_t otherwise) const {
  return values_[index] == nullptr ? otherwise : to_index(*values_[index]);
}

bool Signature::boolean(size_t index, bool otherwise) const {
  return values_[index] == nullptr ? otherwise : truthy(*values_[index]);
}

}  // namespace edgewise::jinja
