// Chat templates: the Jinja programs that turn a conversation into a prompt, as Hugging Face transformers runs them
// (jinja2's immutable sandbox, trim_blocks and lstrip_blocks, loop controls, {% generation %}, its |tojson).
//
// Templates come from strangers. Rendering is bounded in steps, memory, output and stack (see jinja/budget.h).
#pragma once

#include <ctime>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/error.h"
#include "formats/json.h"

namespace edgewise {

// The template itself refused its input, through raise_exception(): a caller's mistake rather than a broken template.
class TemplateRaised : public Error {
 public:
  TemplateRaised(const std::string& what, std::string message)
      : Error(ErrorKind::kUsage, what), message_(std::move(message)) {}
  // What the template said, without file and line.
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

class ChatTemplate {
 public:
  // `name` stands in error messages. Throws Error(kBadFile) as "name:line: ...", Error(kUnsupported) for templates
  // that refer to others.
  static ChatTemplate parse(const std::string& source, const std::string& name);

  // `inputs` is an object: messages, tools, add_generation_prompt, bos_token, eos_token, or anything else.
  // Throws TemplateRaised, or Error(kUsage) when the template fails on these inputs. Safe to call from many threads.
  // Needs about 1.5 MB of stack.
  std::string render(const OrderedJson& inputs) const;

  // What strftime_now() of templates reads; local time unless set. Not while another thread renders.
  void set_clock(std::function<std::tm()> clock);

  const std::string& name() const { return name_; }
  const std::string& source() const { return source_; }

 private:
  struct Program;
  ChatTemplate(std::string name, std::string source, std::shared_ptr<const Program> program);

  std::string name_;
  std::string source_;
  std::shared_ptr<const Program> program_;
  std::function<std::tm()> clock_;
};

// A model's template and the special tokens its templates may name.
struct LoadedChatTemplate {
  ChatTemplate chat_template;
  OrderedJson special_tokens;  // bos_token, eos_token ...: text; input of render() besides the conversation
};

// Looks where transformers looks: chat_template.jinja, chat_template.json, tokenizer_config.json. Where a model has
// several templates, takes `variant`, as "tool_use". Absent when the model has none, or no such variant.
// Throws Error(kBadFile) for files that break their format.
std::optional<LoadedChatTemplate> load_chat_template(const std::filesystem::path& model_directory,
                                                     const std::string& variant = "default");

}  // namespace edgewise
