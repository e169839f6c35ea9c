// What a model's engine puts out beside the logits: final hidden states, and features for its draft head.
#pragma once

#include <string>

#include "graph/graph.h"

namespace edgewise {

// A head's file computes two things: guesses, and the features that the base's hidden states become before a guess. The
// features move into the base's graph, so that a step of the base gives them: its outputs are then logits and features,
// the head's logits and hidden, both [R, columns]. Throws Error(kBadFile) naming `source` when the two do not fit.
void join_draft_head(Graph& base, Graph& head, const std::string& source);

// What the head of a model reads, [R, hidden], becomes its second output: embeddings are made of it. After the passes;
// a graph whose head does not run on selected rows stays as it is.
void put_out_final_hidden(Graph& base);

}  // namespace edgewise
