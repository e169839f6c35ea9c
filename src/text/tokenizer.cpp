#include "text/tokenizer.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "base/mapped_file.h"
#include "formats/json.h"
#include "text/added_tokens.h"
#include "text/decoder.h"
#include "text/model.h"
#include "text/normalizer.h"
#include "text/post_processor.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace edgewise {

struct Tokenizer::Parts {
  explicit Parts(const JsonView& file);

  void find_pieces(std::string_view text, tok::Pieces& pieces, std::string& normalized) const;
  void normalize(tok::Pieces& pieces, std::string& normalized) const;

  uint64_t serial;  // tells tokenizers apart in the threads' scratch memory
  std::unique_ptr<const tok::Normalizer> normalizer;
  std::unique_ptr<tok::PreTokenizer> pre_tokenizer;
  std::unique_ptr<tok::TokenModel> model;
  tok::AddedTokens added;
  tok::PostProcessor post_processor;
  std::unique_ptr<tok::Decoder> decoder;
  int32_t vocab_size = 0;
};

namespace {

// What one thread keeps for one tokenizer.
struct EncodeScratch {
  uint64_t serial = 0;
  std::string sanitized;
  std::string normalized;
  tok::Pieces pieces;
  tok::ModelScratch model;
};

// A thread rarely uses more tokenizers than a model and its draft need. The one used longest ago goes first.
constexpr size_t kScratchesPerThread = 4;

EncodeScratch& thread_scratch(uint64_t serial) {
  thread_local std::vector<std::unique_ptr<EncodeScratch>> scratches;  // the last used one first
  for (size_t i = 0; i < scratches.size(); ++i) {
    if (scratches[i]->serial != serial) continue;
    std::rotate(scratches.begin(), scratches.begin() + i, scratches.begin() + i + 1);
    return *scratches.front();
  }
  if (scratches.size() == kScratchesPerThread) scratches.pop_back();
  auto scratch = std::make_unique<EncodeScratch>();
  scratch->serial = serial;
  scratches.insert(scratches.begin(), std::move(scratch));
  return *scratches.front();
}

uint64_t next_serial() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

}  // namespace

Tokenizer::Parts::Parts(const JsonView& file) : serial(next_serial()) {
  if (!file.value().is_object()) bad_file("{}: expected a JSON object", file.where());
  const std::string version = file.string("version", "1.0");
  if (version != "1.0") unsupported("{}: version: expected \"1.0\", found \"{}\"", file.where(), version);
  model = tok::read_model(file.at("model"));
  if (file.has("normalizer")) normalizer = tok::read_normalizer(file.at("normalizer"));
  if (file.has("pre_tokenizer")) pre_tokenizer = tok::read_pre_tokenizer(file.at("pre_tokenizer"));
  if (file.has("post_processor")) post_processor = tok::PostProcessor(file.at("post_processor"));
  decoder = file.has("decoder") ? std::make_unique<tok::Decoder>(file.at("decoder")) : std::make_unique<tok::Decoder>();
  added = tok::AddedTokens(file, *model, normalizer.get());
  vocab_size = std::max(model->vocab().max_id(), added.max_id()) + 1;
  // Writing bytes as symbols only to look those up is work that byte-level BPE can do without.
  if (pre_tokenizer != nullptr && pre_tokenizer->writes_byte_symbols() && model->take_bytes()) {
    pre_tokenizer->hand_over_bytes();
  }
}

// Normalizes every text piece into `normalized`.
void Tokenizer::Parts::normalize(tok::Pieces& pieces, std::string& normalized) const {
  if (normalizer == nullptr || normalizer->keeps(pieces.text)) return;
  normalized.clear();
  std::string part;
  for (tok::Piece& piece : pieces.list) {
    if (piece.id >= 0) continue;
    part.assign(pieces.text, piece.begin, piece.end - piece.begin);
    normalizer->apply(part, piece.at_origin);
    piece.begin = normalized.size();
    normalized += part;
    piece.end = normalized.size();
  }
  std::erase_if(pieces.list, [](const tok::Piece& piece) { return piece.id < 0 && piece.begin == piece.end; });
  pieces.text = normalized;
}

void Tokenizer::Parts::find_pieces(std::string_view text, tok::Pieces& pieces, std::string& normalized) const {
  pieces.text = text;
  pieces.input_size = text.size();
  pieces.list.clear();
  if (text.empty()) return;
  pieces.list.push_back({0, text.size(), -1, true});
  if (added.has_raw()) added.split_raw(pieces);
  normalize(pieces, normalized);
  if (added.has_normalized()) added.split_normalized(pieces);
  if (pre_tokenizer != nullptr) pre_tokenizer->apply(pieces);
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& tokenizer_json) {
  return parse(read_text_file(tokenizer_json), tokenizer_json.string());
}

Tokenizer Tokenizer::parse(std::string_view json, const std::string& source) {
  const Json document = parse_json(json, source);
  return Tokenizer(std::make_unique<const Parts>(JsonView(document, source)));
}

void Tokenizer::encode_to(std::string_view text, bool add_special_tokens, std::vector<int32_t>& ids) const {
  EncodeScratch& scratch = thread_scratch(parts_->serial);
  ids.clear();
  if (tok::valid_utf8_prefix(text) != text.size()) {
    scratch.sanitized.clear();
    tok::append_lossy(scratch.sanitized, text, true);
    text = scratch.sanitized;
  }
  parts_->find_pieces(text, scratch.pieces, scratch.normalized);
  for (const tok::Piece& piece : scratch.pieces.list) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      const std::string_view word = scratch.pieces.text.substr(piece.begin, piece.end - piece.begin);
      parts_->model->encode(word, ids, scratch.model);
    }
  }
  parts_->post_processor.apply(ids, add_special_tokens);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::vector<int32_t> ids;
  encode_to(text, add_special_tokens, ids);
  return ids;
}

const std::string* Tokenizer::decoded_token(int32_t id, bool skip_special_tokens) const {
  const tok::AddedToken* added = parts_->added.find(id);
  const std::string* token = added != nullptr ? &added->text : parts_->model->id_to_token(id);
  if (token != nullptr && skip_special_tokens && parts_->added.is_special_text(*token)) return nullptr;
  return token;
}

std::unique_ptr<tok::DecodeStream> Tokenizer::open_decoder() const { return parts_->decoder->open(); }

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  const auto stream = open_decoder();
  for (const int32_t id : ids) {
    if (const std::string* token = decoded_token(id, skip_special_tokens)) stream->token(*token);
  }
  stream->finish();
  return stream->take();
}

int32_t Tokenizer::vocab_size() const { return parts_->vocab_size; }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const auto id = parts_->added.find(token)) return id;
  return parts_->model->vocab().find(token);
}

std::optional<std::string> Tokenizer::id_to_token(int32_t id) const {
  if (const std::string* token = decoded_token(id, false)) return *token;
  return std::nullopt;
}

bool Tokenizer::is_special(int32_t id) const {
  const tok::AddedToken* token = parts_->added.find(id);
  return token != nullptr && token->special;
}

std::optional<std::string> Tokenizer::token_bytes(int32_t id) const {
  const std::string* token = is_special(id) ? nullptr : decoded_token(id, true);
  if (token == nullptr) return std::nullopt;
  return parts_->decoder->token_bytes(*token);
}

}  // namespace edgewise
