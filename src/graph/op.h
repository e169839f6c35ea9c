// The closed set of operators. Activations are [tokens, columns]; every operator but attention is row-wise.
#pragma once

#include <cstdint>
#include <string_view>

namespace edgewise {

enum class Op : uint8_t {
  // (tokens i32[N], table [V, H]) -> [N, H]; optional scale, zero as in Linear
  kEmbedding,
  // (x [N, K], then weight, scale, zero, bias for each output i) -> [N, n_i] each.
  // weight is [n, K] with transposed=1 (as in checkpoints) or [K, n] (as in ONNX). Quantized weights have
  // scale [n, K/block] (or [K/block, n]), an optional zero point of the same shape, and attribute block.
  // global_scale multiplies every scale. activation="int8": rows of x are rounded to int8 a token first.
  kLinear,
  // (x, weight [d]) -> x with each run of d columns divided by its root mean square; epsilon. arXiv:1910.07467
  kRmsNorm,
  // (x, weight [d], bias [d] or none) ; epsilon. arXiv:1607.06450
  kLayerNorm,
  // (positions i32[N], inv_freq f32[D/2], long_inv_freq f32[D/2] or none) -> cos, sin f32[N, D/2];
  // scale multiplies both; sequences longer than threshold tokens take long_inv_freq and long_scale.
  kRotaryTable,
  // (x [N, heads*head_dim], cos, sin) -> x with the first rotary_dim columns of each head turned;
  // interleaved=1 pairs neighbours instead of halves. arXiv:2104.09864
  kRotary,
  // (q [N, q_heads*d], k [N, kv_heads*d], v) -> [N, q_heads*d]. Appends k and v to layer's cache, then attends
  // causally; scale, softcap (0: none), window (0: all, else the last `window` positions).
  kAttention,
  kAdd,    // (a, b) same shape, or b [columns]
  kMul,    // (a, b) same shape, or b [columns]
  kScale,  // (x) times attribute factor
  kSilu,   // x * sigmoid(x)
  kGelu,   // attribute approximate: "none" or "tanh"
  kRelu,
  kSquare,         // x * x
  kSoftcap,        // cap * tanh(x / cap)
  kSwiGlu,         // (gate, up) -> silu(gate) * up: fused
  kGeGlu,          // (gate, up) -> gelu(gate) * up: fused
  kAddRmsNorm,     // (a, b, weight) -> a + b, rms_norm(a + b): fused
  kGatherColumns,  // (x, index i32[K]) -> x[:, index]
  kConcat,         // (x, y, ...) -> their columns side by side
  // (router logits [N, E]) -> routing weights f32[N, E], zero but for the top_k; normalize=1 makes them sum to 1;
  // softmax="before" over all experts or "after" over the chosen ones
  kRoute,
  // (x [N, H], routing [N, E], then weight, scale, zero of gate, up [E, I, H] and down [E, H, I]) -> [N, H]
  kMoe,
  kSelectRows,  // (x [N, H]) -> [R, H]: the rows that need logits
};

inline constexpr int kOpCount = static_cast<int>(Op::kSelectRows) + 1;

std::string_view op_name(Op op);
// False when there is no operator of that name.
bool op_from_name(std::string_view name, Op& op);

}  // namespace edgewise
