// A model against a golden file: logits and greedy continuations of Hugging Face transformers.
#pragma once

#include <filesystem>

#include "engine/engine_file.h"

namespace edgewise {

struct VerifyResult {
  int prompts = 0;
  int64_t rows = 0;               // logit rows compared
  double max_relative_error = 0;  // largest |found - golden| over the largest |golden|
  double mean_kl = 0;             // nats, of the golden distribution from ours, mean over rows
  int64_t greedy_tokens = 0;
  int64_t greedy_equal = 0;  // where our argmax, after the golden's tokens, is the golden's next token
  int64_t greedy_wrong = 0;  // unequal although our margin exceeds `noise`
  double noise = 0;          // logits closer than this count as a tie
};

struct VerifyTolerance {
  double relative_error;
  double kl;
  double noise;  // share of the largest logit
};
// float32: 1e-4 relative. Half precision: the relative error is reported, KL and greedy choices must hold.
VerifyTolerance verify_tolerance(DType dtype);

// `golden` holds prompt_{i}_ids [T], prompt_{i}_logits [R, V] of the last R positions, prompt_{i}_greedy [G].
// Throws Error(kBadFile) when it does not fit the engine.
VerifyResult verify_engine(const Engine& engine, const std::filesystem::path& golden, double noise_share);

bool within(const VerifyResult& result, const VerifyTolerance& tolerance);

}  // namespace edgewise
