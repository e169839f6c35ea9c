#include "text/post_processor.h"

#include <algorithm>

#include "base/error.h"
#include "text/vocab.h"

namespace edgewise::tok {
namespace {

constexpr size_t kMaxParts = 256;
constexpr size_t kMaxSpecialIds = 65536;

std::vector<int32_t> read_ids(const JsonView& view) {
  if (!view.has("ids") || !view.value().at("ids").is_array()) view.reject("ids", "an array of token ids");
  std::vector<int32_t> ids;
  for (const Json& id : view.value().at("ids")) ids.push_back(read_id(id, view.where() + ": ids"));
  return ids;
}

}  // namespace

PostProcessor::PostProcessor(const JsonView& view) { read(view); }

void PostProcessor::read(const JsonView& view) {
  const std::string type = view.string("type");
  if (type == "ByteLevel") return;  // corrects offsets, which Edgewise does not compute
  if (type == "Sequence") {
    const JsonView list = view.at("processors");
    if (!list.value().is_array()) view.reject("processors", "an array");
    for (size_t i = 0; i < list.value().size(); ++i) {
      read({list.value()[i], fmt::format("{}[{}]", list.where(), i)});
    }
    return;
  }
  if (!parts_.empty()) unsupported("{}: a second post-processor that adds tokens", view.where());
  if (type == "TemplateProcessing") return read_template(view);
  if (type == "BertProcessing" || type == "RobertaProcessing") return read_pair(view);
  unsupported("{}: unknown post_processor type \"{}\"", view.where(), type);
}

void PostProcessor::read_template(const JsonView& view) {
  const JsonView pieces = view.at("single");
  if (!pieces.value().is_array() || pieces.value().size() > kMaxParts) {
    view.reject("single", fmt::format("an array of at most {} pieces", kMaxParts));
  }
  size_t total = 0;
  for (size_t i = 0; i < pieces.value().size(); ++i) {
    const JsonView piece(pieces.value()[i], fmt::format("{}[{}]", pieces.where(), i));
    if (piece.has("Sequence")) {
      if (piece.at("Sequence").string("id") != "A") piece.at("Sequence").reject("id", "\"A\", the only sequence");
      parts_.push_back({true, {}});
    } else {
      const std::string name = piece.at("SpecialToken").string("id");
      parts_.push_back({false, read_ids(view.at("special_tokens").at(name))});
      total += parts_.back().ids.size();
    }
    if (total > kMaxSpecialIds) bad_file("{}: more than {} special tokens", pieces.where(), kMaxSpecialIds);
  }
  // A template without pieces drops the text, which parts_ says with an empty part.
  if (parts_.empty()) parts_.push_back({false, {}});
}

// BERT and RoBERTa: [CLS] text [SEP], each given as [token, id].
void PostProcessor::read_pair(const JsonView& view) {
  const auto read_one = [&](const std::string& key) -> std::vector<int32_t> {
    const Json& pair = view.at(key).value();
    if (!pair.is_array() || pair.size() != 2) view.reject(key, "[token, id]");
    return {read_id(pair[1], view.where() + ": " + key)};
  };
  parts_.push_back({false, read_one("cls")});
  parts_.push_back({true, {}});
  parts_.push_back({false, read_one("sep")});
}

void PostProcessor::apply(std::vector<int32_t>& ids, bool add_special_tokens) const {
  if (parts_.empty()) return;
  const auto texts = std::count_if(parts_.begin(), parts_.end(), [](const Part& part) { return part.text; });
  if (texts == 1 && !add_special_tokens) return;
  const std::vector<int32_t> text = ids;
  ids.clear();
  for (const Part& part : parts_) {
    if (part.text) {
      ids.insert(ids.end(), text.begin(), text.end());
    } else if (add_special_tokens) {
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    }
  }
}

}  // namespace edgewise::tok
