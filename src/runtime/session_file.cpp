#include "runtime/session_file.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "base/output_file.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

constexpr char kMagic[8] = {'E', 'D', 'G', 'E', 'S', 'E', 'S', 'S'};

struct Header {
  char magic[8];
  uint64_t version;
  uint64_t file_size;
  uint64_t document_size;
  uint64_t document_checksum;
};
static_assert(sizeof(Header) == 40);

using Checksum = uint64_t;
Checksum checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string engine_text(const CacheOwner& owner) { return fmt::format("{:016x}", owner.engine); }
std::string adapter_text(const CacheOwner& owner) { return fmt::format("{:016x}", owner.adapter.checksum); }

// Pages in use while it lives.
class PageTable {
 public:
  PageTable(KvCache& cache, size_t tokens) : cache_(cache) { pages.reserve(tokens / kPageTokens); }
  ~PageTable() { cache_.release(pages); }
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;
  std::vector<int32_t> pages;

 private:
  KvCache& cache_;
};

// Reads one file; every complaint starts with its name.
class Reader {
 public:
  Reader(const fs::path& path, const CacheOwner& owner, size_t page_bytes)
      : path_(path.string()), owner_(owner), page_bytes_(page_bytes), file_(MappedFile::open(path)) {
    read_document();
    check_owner();
    read_tokens();
    check_pages();
  }
  std::span<const int32_t> tokens() const { return tokens_; }
  size_t pages() const { return pages_.size() / page_size(); }
  std::span<const std::byte> page(size_t index) const { return pages_.subspan(index * page_size(), page_bytes_); }
  OrderedJson messages() const;

 private:
  void read_document();
  void check_owner() const;
  void read_tokens();
  void check_pages();
  [[noreturn]] void reject(const std::string& why) const { bad_file("{}: {}", path_, why); }
  [[noreturn]] void reject_damaged(const std::string& what) const {
    reject(what + " is not what was saved: the file is damaged");
  }
  JsonView view() const { return {document_, path_}; }
  size_t page_size() const { return page_bytes_ + sizeof(Checksum); }

  std::string path_;
  const CacheOwner& owner_;
  size_t page_bytes_;
  std::shared_ptr<const MappedFile> file_;
  Json document_;
  std::vector<int32_t> tokens_;
  std::span<const std::byte> pages_;  // with their checksums
};

void Reader::read_document() {
  const auto bytes = file_->bytes();
  Header header{};
  if (bytes.size() < sizeof(Header) || std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) {
    reject("not a session saved by Edgewise");
  }
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (header.version != kSessionVersion) {
    reject(fmt::format("session format {}, this program reads {}", header.version, kSessionVersion));
  }
  if (header.file_size != bytes.size()) {
    reject(fmt::format("truncated: {} bytes, expected {}", bytes.size(), header.file_size));
  }
  const auto rest = bytes.subspan(sizeof(Header));
  if (header.document_size > rest.size()) reject("its document lies outside the file");
  const auto text = rest.first(header.document_size);
  if (checksum(text) != header.document_checksum) reject_damaged("its document");
  document_ = parse_json({reinterpret_cast<const char*>(text.data()), text.size()}, path_);
  pages_ = rest.subspan(header.document_size);
}

void Reader::check_owner() const {
  const auto expect = [&](const char* field, std::string_view expected) {
    const std::string found = view().string(field);
    if (found == expected) return;
    reject(fmt::format(
        "saved with {} \"{}\", this session has \"{}\"; load it with what it was saved with, or start a new one", field,
        found, expected));
  };
  expect("model", owner_.model);
  expect("kv_dtype", dtype_name(owner_.kv_dtype));
  expect("engine", engine_text(owner_));
  if (view().string("adapter_checksum") == adapter_text(owner_)) return;
  const auto named = [](const std::string& name) { return name.empty() ? "no adapter" : "adapter " + name; };
  const std::string saved = named(view().string("adapter"));
  const std::string here = named(owner_.adapter.name);
  reject(fmt::format("saved with {}, this session has {}{}", saved, here, saved == here ? " with other contents" : ""));
}

void Reader::read_tokens() {
  const Json& tokens = view().at("tokens").value();
  if (!tokens.is_array()) view().reject("tokens", "an array of tokens");
  for (const Json& token : tokens) {
    const int64_t id = token.is_number_integer() ? token.get<int64_t>() : -1;
    if (id < 0 || id >= owner_.vocabulary) view().reject("tokens", fmt::format("tokens below {}", owner_.vocabulary));
    tokens_.push_back(static_cast<int32_t>(id));
  }
}

void Reader::check_pages() {
  if (view().integer("page_bytes") != static_cast<int64_t>(page_bytes_)) {
    view().reject("page_bytes", fmt::format("{}", page_bytes_));
  }
  const int64_t count = view().integer("pages");
  if (count < 0 || static_cast<size_t>(count) > tokens_.size() / kPageTokens ||
      static_cast<size_t>(count) * page_size() != pages_.size()) {
    view().reject("pages", fmt::format("as many as its {} tokens and {} bytes hold", tokens_.size(), pages_.size()));
  }
  for (size_t i = 0; i < pages(); ++i) {
    Checksum expected = 0;
    std::memcpy(&expected, page(i).data() + page_bytes_, sizeof(Checksum));
    if (checksum(page(i)) != expected) reject_damaged(fmt::format("page {} of the cache", i));
  }
}

OrderedJson Reader::messages() const {
  const Json& messages = view().at("messages").value();
  if (!messages.is_array()) view().reject("messages", "an array of messages");
  OrderedJson result = OrderedJson::array();
  for (const Json& entry : messages) {
    const JsonView message(entry, path_ + ": messages");
    result.push_back({{"role", message.string("role")}, {"content", message.string("content")}});
  }
  return result;
}

}  // namespace

void write_session_file(const fs::path& path, const CacheOwner& owner, std::span<const int32_t> tokens,
                        const OrderedJson& messages, KvCache& cache, const Executable& executable) {
  PageTable table(cache, tokens.size());
  cache.reuse(tokens, owner.adapter.id, table.pages);
  std::vector<std::byte> page(executable.page_bytes());
  const OrderedJson document = {{"model", owner.model},
                                {"engine", engine_text(owner)},
                                {"kv_dtype", dtype_name(owner.kv_dtype)},
                                {"adapter", owner.adapter.name},
                                {"adapter_checksum", adapter_text(owner)},
                                {"tokens", std::vector<int32_t>(tokens.begin(), tokens.end())},
                                {"pages", table.pages.size()},
                                {"page_bytes", page.size()},
                                {"messages", messages}};
  const std::string text = document.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  const auto text_bytes = std::as_bytes(std::span(text));
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.version = kSessionVersion;
  header.document_size = text.size();
  header.document_checksum = checksum(text_bytes);
  header.file_size = sizeof(Header) + text.size() + table.pages.size() * (page.size() + sizeof(Checksum));
  OutputFile file(path);
  file.write(std::as_bytes(std::span(&header, 1)));
  file.write(text_bytes);
  for (const int32_t id : table.pages) {
    executable.read_page(id, page);
    const Checksum sum = checksum(page);
    file.write(page);
    file.write(std::as_bytes(std::span(&sum, 1)));
  }
  file.commit();
}

OrderedJson read_session_file(const fs::path& path, const CacheOwner& owner, KvCache& cache, Executable& executable) {
  const Reader reader(path, owner, executable.page_bytes());
  OrderedJson messages = reader.messages();
  PageTable table(cache, reader.tokens().size());
  cache.reuse(reader.tokens(), owner.adapter.id, table.pages);
  const size_t known = table.pages.size();
  const size_t pages = std::min(reader.pages(), known + static_cast<size_t>(cache.available()));
  cache.reserve(table.pages, static_cast<int>(pages) * kPageTokens);
  for (size_t i = known; i < pages; ++i) {
    executable.write_page(table.pages[i], reader.page(i));
    cache.publish(table.pages, i, reader.tokens().subspan(i * kPageTokens).first<kPageTokens>(), owner.adapter.id);
  }
  return messages;
}

}  // namespace edgewise
