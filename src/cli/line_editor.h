// Lines typed at a terminal, edited with libedit: history on the arrow keys, UTF-8, a paste of several lines as one.
#pragma once

#include <histedit.h>

#include <memory>
#include <optional>
#include <string>

namespace edgewise {

class LineEditor {
 public:
  // Reads standard input and draws on standard error, behind `prompt`.
  explicit LineEditor(std::string prompt);

  // The next line, without its end. Nothing at the end of input: Ctrl-D or Ctrl-C on an empty line, or SIGTERM. Ctrl-C
  // on a line with text empties it.
  std::optional<std::string> read();

 private:
  struct End {
    void operator()(EditLine* editor) const { el_end(editor); }
    void operator()(History* history) const { history_end(history); }
  };

  std::string prompt_;
  bool pastes_marked_;  // the terminal can say where a paste begins and ends
  std::unique_ptr<History, End> history_;
  std::unique_ptr<EditLine, End> editor_;
};

}  // namespace edgewise
