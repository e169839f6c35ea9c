#include <algorithm>

#include "text/jinja/failure.h"
#include "text/jinja/renderer.h"

namespace edgewise::jinja {

// Arguments bind as jinja2 does it: positional, named, defaults; the rest goes to varargs and kwargs if the body reads
// those, and is an error otherwise.
Value Macro::call(const Args& args) {
  const auto& parameters = signature_.parameters;
  auto scope = std::make_shared<Scope>(closure_);
  auto named = args.named;
  const size_t positional = std::min(args.positional.size(), parameters.size());
  bool caller_bound = false;
  std::vector<std::optional<Value>> values(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (i < positional) {
      values[i] = args.positional[i];
      if (parameters[i] == "caller" && positional == parameters.size()) caller_bound = true;
      continue;
    }
    if (parameters[i] == "caller") caller_bound = true;
    const auto found =
        std::find_if(named.begin(), named.end(), [&](const auto& entry) { return entry.first == parameters[i]; });
    if (found == named.end()) continue;
    values[i] = std::move(found->second);
    named.erase(found);
  }
  bind_special(args, std::move(named), caller_bound, *scope);
  // A default may read the parameters before its own, and finds its own and later ones undefined.
  for (size_t i = 0; i < parameters.size(); ++i) {
    scope->set(parameters[i], values[i] ? *values[i] : make_undefined(string_literal(parameters[i]) + " is undefined"));
  }
  const size_t first_default = parameters.size() - signature_.defaults.size();
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (values[i]) continue;
    scope->set(parameters[i], i >= first_default
                                  ? renderer_.evaluate_in(*signature_.defaults[i - first_default], scope)
                                  : make_undefined("parameter " + string_literal(parameters[i]) + " was not provided"));
  }
  return renderer_.run_macro(body_, std::move(scope));
}

void Macro::bind_special(const Args& args, std::vector<std::pair<std::string, Value>> named, bool caller_bound,
                         Scope& scope) {
  if (signature_.uses_caller && !caller_bound) {
    Value caller = make_undefined("No caller defined");
    const auto found =
        std::find_if(named.begin(), named.end(), [](const auto& entry) { return entry.first == "caller"; });
    if (found != named.end()) {
      if (!found->second.is_none()) caller = found->second;
      named.erase(found);
    }
    scope.set("caller", std::move(caller));
  }
  if (signature_.uses_kwargs) {
    std::vector<std::pair<Value, Value>> items;
    for (auto& [name, value] : named) items.emplace_back(make_str(name), std::move(value));
    scope.set("kwargs", make_dict(std::move(items)));
  } else if (!named.empty()) {
    type_error("macro {} takes no keyword argument {}", string_literal(signature_.name),
               string_literal(named[0].first));
  }
  const size_t taken = std::min(args.positional.size(), signature_.parameters.size());
  if (signature_.uses_varargs) {
    scope.set("varargs",
              make_tuple({args.positional.begin() + static_cast<std::ptrdiff_t>(taken), args.positional.end()}));
  } else if (args.positional.size() > taken) {
    type_error("macro {} takes not more than {} argument(s)", string_literal(signature_.name), taken);
  }
}

std::optional<Value> Macro::attribute(const std::string& name) {
  if (name == "name") return make_str(signature_.name);
  if (name == "catch_kwargs") return Value(signature_.uses_kwargs);
  if (name == "catch_varargs") return Value(signature_.uses_varargs);
  if (name == "caller") return Value(signature_.uses_caller);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const std::string& parameter : signature_.parameters) names.push_back(make_str(parameter));
    return make_tuple(std::move(names));
  }
  return std::nullopt;
}

}  // namespace edgewise::jinja
