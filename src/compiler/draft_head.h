// A base model and its draft head, as they run together.
#pragma once

#include <string>

#include "graph/graph.h"

namespace edgewise {

// A head's file computes two things: guesses, and the features that the base's hidden states become before a guess. The
// features move into the base's graph, so that a step of the base gives them: its outputs are then logits and features,
// the head's logits and hidden, both [R, columns]. Throws Error(kBadFile) naming `source` when the two do not fit.
void join_draft_head(Graph& base, Graph& head, const std::string& source);

}  // namespace edgewise
