// The conversation at the terminal.
#pragma once

#include <filesystem>

#include "cli/conversation.h"

namespace edgewise {

// Reads questions and /commands until the input ends. With `session_file` the conversation is saved there at the end.
// Ctrl-C stops an answer; on an empty line it leaves. Returns the exit code.
int chat(Session& session, Conversation& conversation, const std::filesystem::path& session_file, bool quiet);

}  // namespace edgewise
