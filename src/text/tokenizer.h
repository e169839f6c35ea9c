// Text to token ids and back, as a Hugging Face tokenizer.json describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace edgewise {

namespace tok {
class DecodeStream;
}

// A loaded tokenizer.json. All models, normalizers, pre-tokenizers, decoders and post-processors of the
// format are there; the sections "truncation" and "padding" are ignored: a text is always encoded whole.
// Const use from several threads at once needs no lock; each thread keeps a cache of words it has seen.
class Tokenizer {
 public:
  // Throw Error(kIo), Error(kBadFile), or Error(kUnsupported) with the place in the file.
  static Tokenizer load(const std::filesystem::path& tokenizer_json);
  // `source` names the file in errors.
  static Tokenizer parse(std::string_view json, const std::string& source);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // The ids of `text`; with `add_special_tokens` also what the post-processor puts around it. Invalid UTF-8
  // counts as U+FFFD. Throws Error(kBadFile) when the text has something the vocabulary has no token for, not
  // even an unknown token, and Error(kUnsupported) when a regular expression of the file exceeds its limits.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  // The same into `ids`, which is cleared but keeps its memory.
  void encode_to(std::string_view text, bool add_special_tokens, std::vector<int32_t>& ids) const;

  // The text of `ids`; ids outside the vocabulary are left out. For text as it is generated see
  // StreamDecoder.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  int32_t vocab_size() const;  // the highest id + 1, added tokens included
  std::optional<int32_t> token_to_id(std::string_view token) const;
  // The token as the vocabulary has it (a leading space may be "Ġ" or "▁").
  std::optional<std::string> id_to_token(int32_t id) const;
  bool is_special(int32_t id) const;
  // The bytes that the token adds in the middle of a text, not necessarily whole characters ("Ġa" and "▁a" are " a",
  // "<0x0A>" is a line break); none for special tokens and unused ids. Throws Error(kUnsupported) when the bytes depend
  // on the tokens around it, as WordPiece's do.
  std::optional<std::string> token_bytes(int32_t id) const;

 private:
  friend class StreamDecoder;
  struct Parts;

  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  std::unique_ptr<tok::DecodeStream> open_decoder() const;
  // What decoding makes of the id; nullptr for none.
  const std::string* decoded_token(int32_t id, bool skip_special_tokens) const;

  std::unique_ptr<const Parts> parts_;
};

}  // namespace edgewise
