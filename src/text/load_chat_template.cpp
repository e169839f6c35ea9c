#include "base/mapped_file.h"
#include "text/chat_template.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

constexpr size_t kMaxTemplateBytes = size_t{16} << 20;

struct Source {
  std::string text;
  std::string name;
};

// A chat_template field: text, or a list of {name, template}, or an object by name.
std::optional<std::string> pick_variant(const OrderedJson& field, const std::string& variant,
                                        const std::string& where) {
  if (field.is_null()) return std::nullopt;
  if (field.is_string()) {
    return variant == "default" ? std::optional(field.get<std::string>()) : std::nullopt;
  }
  const auto text_of = [&](const OrderedJson& value) {
    if (!value.is_string()) bad_file("{}: chat_template: {}: expected a string", where, variant);
    return value.get<std::string>();
  };
  if (field.is_object()) {
    return field.contains(variant) ? std::optional(text_of(field.at(variant))) : std::nullopt;
  }
  if (!field.is_array()) bad_file("{}: chat_template: expected a string or a list", where);
  for (const OrderedJson& entry : field) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) {
      bad_file("{}: chat_template: expected entries with \"name\" and \"template\"", where);
    }
    if (entry.at("name") == variant) return text_of(entry.at("template"));
  }
  return std::nullopt;
}

OrderedJson read_object(const fs::path& path) {
  OrderedJson json = parse_ordered_json(read_text_file(path), path.string());
  if (!json.is_object()) bad_file("{}: expected an object", path.string());
  return json;
}

std::optional<Source> find_source(const fs::path& directory, const OrderedJson& tokenizer_config,
                                  const std::string& variant) {
  // A file of its own wins over a field, as in transformers.
  const fs::path own = variant == "default" ? directory / "chat_template.jinja"
                                            : directory / "additional_chat_templates" / (variant + ".jinja");
  const bool plain_name = variant.find_first_of("/\\") == std::string::npos;
  if (plain_name && fs::is_regular_file(own)) return Source{read_text_file(own, kMaxTemplateBytes), own.string()};
  const auto from_field = [&](const OrderedJson& json, const fs::path& path) -> std::optional<Source> {
    if (!json.contains("chat_template")) return std::nullopt;
    auto text = pick_variant(json.at("chat_template"), variant, path.string());
    if (!text) return std::nullopt;
    return Source{*std::move(text), path.string() + " chat_template"};
  };
  const fs::path json_file = directory / "chat_template.json";
  if (fs::is_regular_file(json_file)) {
    if (auto source = from_field(read_object(json_file), json_file)) return source;
  }
  return from_field(tokenizer_config, directory / "tokenizer_config.json");
}

// Strings, and AddedToken objects by their content.
OrderedJson special_tokens_of(const OrderedJson& tokenizer_config) {
  OrderedJson tokens = OrderedJson::object();
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    if (!tokenizer_config.contains(name)) continue;
    const OrderedJson& field = tokenizer_config.at(name);
    if (field.is_string()) tokens[name] = field;
    if (field.is_object() && field.contains("content") && field.at("content").is_string()) {
      tokens[name] = field.at("content");
    }
  }
  return tokens;
}

}  // namespace

std::optional<LoadedChatTemplate> load_chat_template(const fs::path& model_directory, const std::string& variant) {
  const fs::path config_file = model_directory / "tokenizer_config.json";
  const OrderedJson config = fs::is_regular_file(config_file) ? read_object(config_file) : OrderedJson::object();
  OrderedJson tokens = special_tokens_of(config);
  // Old tokenizers keep the tokens in a file of their own; the configuration wins.
  const fs::path map_file = model_directory / "special_tokens_map.json";
  if (fs::is_regular_file(map_file)) {
    const OrderedJson more = special_tokens_of(read_object(map_file));
    for (const auto& [name, token] : more.items()) {
      if (!tokens.contains(name)) tokens[name] = token;
    }
  }
  const auto source = find_source(model_directory, config, variant);
  if (!source) return std::nullopt;
  return LoadedChatTemplate{ChatTemplate::parse(source->text, source->name), std::move(tokens)};
}

}  // namespace edgewise
