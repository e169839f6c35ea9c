#include "cli/line_editor.h"

#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <string_view>

#include "base/progress.h"
#include "cli/standard_input.h"

namespace edgewise {
namespace {

constexpr wchar_t kReplacement = 0xFFFD;
constexpr std::wstring_view kPasteEnd = L"\033[201~";

const char* prompt_of(EditLine* editor) {
  void* prompt = nullptr;
  el_get(editor, EL_CLIENTDATA, &prompt);
  return static_cast<const char*>(prompt);
}

// One character, or the end when a signal asks for it: libedit's own reader would sleep on.
int read_character(EditLine*, wchar_t* character) {
  std::mbstate_t state{};
  for (;;) {
    const bool waits = input_waits();
    if (interrupted()) return 0;
    if (!waits) continue;
    char byte = 0;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return static_cast<int>(count);
    const size_t length = std::mbrtowc(character, &byte, 1, &state);
    if (length == static_cast<size_t>(-2)) continue;  // the first bytes of one
    if (length == static_cast<size_t>(-1)) *character = kReplacement;
    return 1;
  }
}

unsigned char interrupt(EditLine* editor, int) {
  const LineInfoW* line = el_wline(editor);
  if (line->lastchar == line->buffer) return CC_EOF;
  el_cursor(editor, static_cast<int>(line->lastchar - line->cursor));
  el_deletestr(editor, static_cast<int>(line->lastchar - line->buffer));
  return CC_REFRESH;
}

unsigned char suspend(EditLine* editor, int) {
  el_set(editor, EL_PREP_TERM, 0);
  std::raise(SIGTSTP);
  el_set(editor, EL_PREP_TERM, 1);
  return CC_REDISPLAY;
}

unsigned char paste(EditLine* editor, int) {
  std::wstring text;
  for (wchar_t c = 0; !text.ends_with(kPasteEnd) && el_wgetc(editor, &c) == 1;) text += c == L'\r' ? L'\n' : c;
  if (text.ends_with(kPasteEnd)) text.resize(text.size() - kPasteEnd.size());
  while (text.ends_with(L'\n')) text.pop_back();
  return el_winsertstr(editor, text.c_str()) == 0 ? CC_REFRESH : CC_ERROR;
}

bool terminal_knows_escapes() {
  const char* kind = std::getenv("TERM");
  return kind != nullptr && std::string_view(kind) != "dumb";
}

}  // namespace

LineEditor::LineEditor(std::string prompt) : prompt_(std::move(prompt)), pastes_marked_(terminal_knows_escapes()) {
  std::setlocale(LC_CTYPE, "C.UTF-8");  // whatever the environment says: models speak UTF-8
  editor_.reset(el_init("edgewise", stdin, stderr, stderr));
  history_.reset(history_init());
  if (!editor_ || !history_) throw std::bad_alloc();
  HistEvent event;
  history(history_.get(), &event, H_SETSIZE, 1000);
  history(history_.get(), &event, H_SETUNIQUE, 1);
  EditLine* editor = editor_.get();
  el_set(editor, EL_CLIENTDATA, prompt_.data());
  el_set(editor, EL_PROMPT, prompt_of);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_HIST, history, history_.get());
  el_set(editor, EL_GETCFN, read_character);
  el_set(editor, EL_SETTY, "-d", "-isig", nullptr);  // Ctrl-C is a key while a line is edited
  el_set(editor, EL_ADDFN, "interrupt", "empties the line, or ends the input", interrupt);
  el_set(editor, EL_ADDFN, "suspend", "stops the program until it is continued", suspend);
  el_set(editor, EL_ADDFN, "paste", "inserts what is pasted", paste);
  el_set(editor, EL_BIND, "^C", "interrupt", nullptr);
  el_set(editor, EL_BIND, "^Z", "suspend", nullptr);
  el_set(editor, EL_BIND, "\\e[200~", "paste", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
}

std::optional<std::string> LineEditor::read() {
  el_resize(editor_.get());
  el_set(editor_.get(), EL_PREP_TERM, 1);  // keys count from here on, before the prompt is drawn
  clear_interrupt();                       // a Ctrl-C that came as a signal was meant for what ran before
  if (pastes_marked_) std::fputs("\033[?2004h", stderr);
  int length = 0;
  const char* text = el_gets(editor_.get(), &length);
  if (pastes_marked_) std::fputs("\033[?2004l", stderr);
  if (text == nullptr || length <= 0) return std::nullopt;
  std::string line(text, static_cast<size_t>(length));
  if (line.ends_with('\n')) line.pop_back();
  HistEvent event;
  if (!line.empty()) history(history_.get(), &event, H_ENTER, line.c_str());
  return line;
}

}  // namespace edgewise
