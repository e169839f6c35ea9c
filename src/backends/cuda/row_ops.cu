// Operators that look at one row at a time, and those that move rows and columns.
#include "backends/cuda/device_code.cuh"
#include "backends/cuda/kernels.h"

namespace edgewise::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

template <typename T>
__global__ void embed_kernel(const int32_t* tokens, const T* table, int columns, int vocabulary, float* out) {
  wait_for_inputs();
  const int token = min(max(tokens[blockIdx.x], 0), vocabulary - 1);
  const T* row = table + static_cast<int64_t>(token) * columns;
  for (int i = threadIdx.x; i < columns; i += blockDim.x)
    out[static_cast<int64_t>(blockIdx.x) * columns + i] = to_float(row[i]);
}

// A run of d values: a row, or a head of one.
__global__ void rms_norm_kernel(const float* a, const float* b, const float* weight, int d, float epsilon,
                                float* out_sum, float* out) {
  wait_for_inputs();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * d;
  if (b != nullptr) {  // each thread looks at its own sums again
    for (int i = threadIdx.x; i < d; i += blockDim.x) out_sum[first + i] = a[first + i] + b[first + i];
  }
  const float* x = (b != nullptr ? out_sum : a) + first;
  const float inverse = inverse_norm(x, d, epsilon);
  for (int i = threadIdx.x; i < d; i += blockDim.x) out[first + i] = x[i] * inverse * weight[i];
}

__global__ void layer_norm_kernel(const float* x, const float* weight, const float* bias, int d, float epsilon,
                                  float* out) {
  wait_for_inputs();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * d;
  float sum = 0;
  for (int i = threadIdx.x; i < d; i += blockDim.x) sum += x[first + i];
  const float mean = combine_block(sum, Sum()) / static_cast<float>(d);
  float squares = 0;
  for (int i = threadIdx.x; i < d; i += blockDim.x) squares += (x[first + i] - mean) * (x[first + i] - mean);
  const float inverse = rsqrtf(combine_block(squares, Sum()) / static_cast<float>(d) + epsilon);
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    const float shift = bias != nullptr ? bias[i] : 0.0f;
    out[first + i] = (x[first + i] - mean) * inverse * weight[i] + shift;
  }
}

__global__ void rotary_table_kernel(const int32_t* positions, const int32_t* context, RotaryTable table, float* cosines,
                                    float* sines) {
  wait_for_inputs();
  const int row = static_cast<int>(blockIdx.x);
  const bool is_long = table.long_freq != nullptr && context[row] > table.threshold;
  const float* freq = is_long ? table.long_freq : table.freq;
  const float scale = is_long ? table.long_scale : table.scale;
  for (int i = threadIdx.x; i < table.half; i += blockDim.x) {
    float sine, cosine;
    sincosf(static_cast<float>(positions[row]) * freq[i], &sine, &cosine);
    cosines[row * table.half + i] = cosine * scale;
    sines[row * table.half + i] = sine * scale;
  }
}

__global__ void rotary_kernel(const float* x, const float* cosines, const float* sines, int columns, int head_dim,
                              int half, bool interleaved, float* out) {
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    const int in_head = i % head_dim;
    const float* head = x + row * columns + i - in_head;
    float value = head[in_head];
    if (in_head < 2 * half) {
      const int pair = interleaved ? in_head / 2 : in_head % half;
      const bool first = interleaved ? in_head % 2 == 0 : in_head < half;
      const int other = interleaved ? in_head ^ 1 : (first ? in_head + half : in_head - half);
      const float turned = head[other] * sines[row * half + pair];
      value = value * cosines[row * half + pair] + (first ? -turned : turned);
    }
    out[row * columns + i] = value;
  }
}

__global__ void unary_kernel(Unary op, float parameter, const float* x, int64_t count, float* out) {
  wait_for_inputs();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float value = x[i];
  switch (op) {
    case Unary::kSilu:
      out[i] = silu(value);
      return;
    case Unary::kGelu:
      out[i] = gelu(value);
      return;
    case Unary::kGeluTanh:
      out[i] = gelu_tanh(value);
      return;
    case Unary::kRelu:
      out[i] = fmaxf(value, 0.0f);
      return;
    case Unary::kSquare:
      out[i] = value * value;
      return;
    case Unary::kSoftcap:
      out[i] = parameter * tanhf(value / parameter);
      return;
    case Unary::kScale:
      out[i] = value * parameter;
  }
}

__global__ void binary_kernel(Binary op, const float* a, const float* b, bool broadcast, int64_t columns, int64_t count,
                              float* out) {
  wait_for_inputs();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const float x = a[i];
  const float y = b[broadcast ? i % columns : i];
  switch (op) {
    case Binary::kAdd:
      out[i] = x + y;
      return;
    case Binary::kMul:
      out[i] = x * y;
      return;
    case Binary::kSwiGlu:
      out[i] = silu(x) * y;
      return;
    case Binary::kGeGlu:
      out[i] = gelu(x) * y;
      return;
    case Binary::kGeGluTanh:
      out[i] = gelu_tanh(x) * y;
  }
}

__global__ void gather_columns_kernel(const float* x, const int32_t* index, int columns, int count, float* out) {
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < count; i += blockDim.x) out[row * count + i] = x[row * columns + index[i]];
}

__global__ void copy_columns_kernel(const float* x, int columns, float* out, int out_columns, int first) {
  wait_for_inputs();
  const int64_t row = blockIdx.x;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[row * out_columns + first + i] = x[row * columns + i];
}

__global__ void select_rows_kernel(const float* x, const int32_t* rows, int columns, float* out) {
  wait_for_inputs();
  const int64_t from = rows[blockIdx.x];
  const int64_t to = blockIdx.x;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) out[to * columns + i] = x[from * columns + i];
}

// Writes the best `top_k` of a row of router logits; one warp a row, since experts are few.
__global__ void route_kernel(const float* logits, int experts, int top_k, bool softmax_before, bool normalize,
                             float* out) {
  wait_for_inputs();
  extern __shared__ float values[];  // [experts]
  const int64_t first = static_cast<int64_t>(blockIdx.x) * experts;
  float largest = -INFINITY;
  for (int e = threadIdx.x; e < experts; e += 32) {
    values[e] = logits[first + e];
    largest = fmaxf(largest, values[e]);
    out[first + e] = 0;
  }
  largest = combine_warp(largest, Largest());
  float sum = 0;
  for (int e = threadIdx.x; e < experts; e += 32) sum += expf(values[e] - largest);
  sum = combine_warp(sum, Sum());
  __syncwarp();
  float chosen_sum = 0;
  for (int round = 0; round < top_k; ++round) {  // the first of equals, as a stable sort has it
    float best = -INFINITY;
    int at = experts;
    for (int e = threadIdx.x; e < experts; e += 32) {
      if (values[e] > best) {
        best = values[e];
        at = e;
      }
    }
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(~0u, best, offset);
      const int other_at = __shfl_xor_sync(~0u, at, offset);
      if (other > best || (other == best && other_at < at)) {
        best = other;
        at = other_at;
      }
    }
    const float weight = expf(best - largest);
    chosen_sum += weight;
    if (threadIdx.x == 0) {
      out[first + at] = weight;
      values[at] = -INFINITY;
    }
    __syncwarp();
  }
  // exp(x - largest) over the sum of all, or of the chosen; normalizing makes both the latter.
  const float divisor = softmax_before && !normalize ? sum : chosen_sum;
  for (int e = threadIdx.x; e < experts; e += 32) out[first + e] /= divisor;
}

__global__ void read_kernel(const uint4* data, int64_t count, unsigned* never) {
  uint4 sum = {};
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i + 3 * stride < count;
       i += 4 * stride) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = __ldcs(data + i + j * stride);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sum.x ^= v[j].x;
      sum.y ^= v[j].y;
      sum.z ^= v[j].z;
      sum.w ^= v[j].w;
    }
  }
  if (never != nullptr) *never = sum.x ^ sum.y ^ sum.z ^ sum.w;  // what nobody reads would not be computed
}

}  // namespace

void read_all(cudaStream_t stream, const void* memory, size_t bytes) {
  read_kernel<<<1056, 512, 0, stream>>>(static_cast<const uint4*>(memory), static_cast<int64_t>(bytes / sizeof(uint4)),
                                        nullptr);
}

void embed_rows(cudaStream_t stream, const int32_t* tokens, const void* table, int type, int rows, int columns,
                int vocabulary, float* out) {
  const dim3 grid(static_cast<unsigned>(rows));
  if (type == 0)
    launch(embed_kernel<float>, grid, kThreads, 0, stream, tokens, static_cast<const float*>(table), columns,
           vocabulary, out);
  else if (type == 1)
    launch(embed_kernel<__half>, grid, kThreads, 0, stream, tokens, static_cast<const __half*>(table), columns,
           vocabulary, out);
  else
    launch(embed_kernel<__nv_bfloat16>, grid, kThreads, 0, stream, tokens, static_cast<const __nv_bfloat16*>(table),
           columns, vocabulary, out);
}

void rms_norm_rows(cudaStream_t stream, const float* x, const float* weight, int runs, int d, float epsilon,
                   float* out) {
  launch(rms_norm_kernel, dim3(static_cast<unsigned>(runs)), norm_threads(d), 0, stream, x, nullptr, weight, d, epsilon,
         nullptr, out);
}

void add_rms_norm_rows(cudaStream_t stream, const float* a, const float* b, const float* weight, int runs, int d,
                       float epsilon, float* out_sum, float* out) {
  launch(rms_norm_kernel, dim3(static_cast<unsigned>(runs)), norm_threads(d), 0, stream, a, b, weight, d, epsilon,
         out_sum, out);
}

void layer_norm_rows(cudaStream_t stream, const float* x, const float* weight, const float* bias, int runs, int d,
                     float epsilon, float* out) {
  launch(layer_norm_kernel, dim3(static_cast<unsigned>(runs)), 256, 0, stream, x, weight, bias, d, epsilon, out);
}

void rotary_table_rows(cudaStream_t stream, const int32_t* positions, const int32_t* context, const RotaryTable& table,
                       int rows, float* cos, float* sin) {
  launch(rotary_table_kernel, dim3(static_cast<unsigned>(rows)), 64, 0, stream, positions, context, table, cos, sin);
}

void rotary_rows(cudaStream_t stream, const float* x, const float* cos, const float* sin, int rows, int columns,
                 int head_dim, int half, bool interleaved, float* out) {
  launch(rotary_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x, cos, sin, columns, head_dim, half,
         interleaved, out);
}

void unary_values(cudaStream_t stream, Unary op, float parameter, const float* x, int64_t count, float* out) {
  launch(unary_kernel, dim3(blocks_for(count)), kThreads, 0, stream, op, parameter, x, count, out);
}

void binary_values(cudaStream_t stream, Binary op, const float* a, const float* b, bool broadcast, int64_t rows,
                   int64_t columns, float* out) {
  launch(binary_kernel, dim3(blocks_for(rows * columns)), kThreads, 0, stream, op, a, b, broadcast, columns,
         rows * columns, out);
}

void gather_columns(cudaStream_t stream, const float* x, const int32_t* index, int rows, int columns, int count,
                    float* out) {
  launch(gather_columns_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x, index, columns, count, out);
}

void copy_columns(cudaStream_t stream, const float* x, int rows, int columns, float* out, int out_columns, int first) {
  launch(copy_columns_kernel, dim3(static_cast<unsigned>(rows)), kThreads, 0, stream, x, columns, out, out_columns,
         first);
}

void select_rows(cudaStream_t stream, const float* x, const int32_t* rows, int count, int columns, float* out) {
  launch(select_rows_kernel, dim3(static_cast<unsigned>(count)), kThreads, 0, stream, x, rows, columns, out);
}

void route_rows(cudaStream_t stream, const float* logits, int rows, int experts, int top_k, bool softmax_before,
                bool normalize, float* out) {
  launch(route_kernel, dim3(static_cast<unsigned>(rows)), 32, static_cast<size_t>(experts) * sizeof(float), stream,
         logits, experts, top_k, softmax_before, normalize, out);
}

}  // namespace edgewise::cuda
