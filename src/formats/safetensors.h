// safetensors files: https://huggingface.co/docs/safetensors, format version 0.x.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/output_file.h"
#include "base/tensor.h"

namespace edgewise {

// A mapped file; tensors share its bytes. Every offset is checked when it is opened.
class SafetensorsFile {
 public:
  // Throws Error(kIo) or Error(kBadFile) naming the tensor, what was found and what was expected.
  static SafetensorsFile open(const std::filesystem::path& path);
  // From bytes that `owner` keeps alive; `source` stands in errors.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, std::string source);

  const std::map<std::string, Tensor, std::less<>>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  // Throws Error(kBadFile) when absent.
  const Tensor& at(std::string_view name) const;
  const std::string& source() const { return source_; }

 private:
  std::string source_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes one file, tensor by tensor, in the order they were declared: the header comes first, so shapes are
// declared before the first byte is written and no more than one tensor is in memory.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(const std::filesystem::path& path) : file_(path) {}
  void declare(const std::string& name, DType dtype, const Shape& shape);
  // In declaration order; dtype and shape must be as declared.
  void write(const std::string& name, const Tensor& tensor);
  void commit();

 private:
  struct Entry {
    std::string name;
    DType dtype;
    Shape shape;
    uint64_t begin;
    uint64_t end;
  };
  void write_header();

  OutputFile file_;
  std::vector<Entry> entries_;
  size_t written_ = 0;
  uint64_t size_ = 0;
};

}  // namespace edgewise
