#include "models/config_reader.h"

#include "base/error.h"

namespace edgewise {
namespace {

// Fields that say how a model was trained, stored or wrapped, not what it computes.
const std::set<std::string> kWithoutInfluence = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "eos_token_id",
    "gradient_checkpointing",
    "greedy_match_per_step",
    "id2label",
    "label2id",
    "initializer_range",
    "initializer_factor",
    "max_position_embeddings",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pad_token",
    "pretraining_tp",
    "problem_type",
    "quantization_config",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "input_jitter_noise",
    "sep_token_id",
    "decoder_start_token_id",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "unsloth_fixed",
    "use_cache",
    "vocab_size",
    "embedding_dropout",
    "attn_dropout",
    "residual_dropout",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "num_return_sequences",
    "rope_interleaved",
    "max_new_tokens",
    "model_max_length",
    "tie_word_embeddings",
    "is_decoder",
    "is_encoder_decoder",
    "unk_token_id",
    "transformers.js_config",
};

bool counts_as_unused(const Json& value) {
  return value.is_null() || (value.is_boolean() && !value.get<bool>()) ||
         ((value.is_array() || value.is_object()) && value.empty());
}

}  // namespace

int64_t ConfigReader::size(const std::string& key) {
  const int64_t value = integer(key);
  if (value < 1 || value > (int64_t{1} << 31)) view_.reject(key, "a positive size");
  return value;
}

void ConfigReader::require(const std::string& key, const Json& value) {
  if (!has(key) || config_.at(key) == value) return;
  unsupported("{}: {} = {} is not supported; Edgewise implements {}", where(), key, config_.at(key).dump(),
              value.dump());
}

void ConfigReader::check_all_read() const {
  for (const auto& [key, value] : config_.items()) {
    if (read_.contains(key) || kWithoutInfluence.contains(key) || counts_as_unused(value)) continue;
    unsupported("{}: the field {} = {:.60} is not supported for model_type {}", where(), key,
                value.dump(-1, ' ', false, Json::error_handler_t::replace), view_.string("model_type", "(none)"));
  }
}

}  // namespace edgewise
