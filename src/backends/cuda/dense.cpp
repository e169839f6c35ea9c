#include "backends/cuda/dense.h"

#include <dlfcn.h>
#include <library_types.h>

namespace edgewise::cuda {
namespace {

// What is used of cublasLt.h (cuBLAS Library User Guide, "Using the cuBLASLt API"), which machines that build this
// program need not have. It is the same in versions 11 to 13.
using Status = int;  // 0 is success
using Handle = void*;
using Descriptor = void*;
constexpr int kCompute32F = 68;
constexpr int kTransposeA = 3;  // of products
constexpr int32_t kTransposed = 1;
constexpr int kRows = 2;  // of layouts
constexpr int kColumns = 3;
constexpr int kLeading = 4;
constexpr int kMostScratch = 1;  // of preferences

struct Algorithm {
  uint64_t data[8];
};
struct Choice {
  Algorithm algorithm;
  size_t scratch;
  Status status;
  float waves;
  int reserved[4];
};

struct Library {
  Status (*create)(Handle*);
  Status (*create_product)(Descriptor*, int compute, int scale_type);
  Status (*set_product)(Descriptor, int attribute, const void*, size_t);
  Status (*destroy_product)(Descriptor);
  Status (*create_layout)(Descriptor*, int type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*set_layout)(Descriptor, int attribute, const void*, size_t);
  Status (*destroy_layout)(Descriptor);
  Status (*create_preference)(Descriptor*);
  Status (*set_preference)(Descriptor, int attribute, const void*, size_t);
  Status (*destroy_preference)(Descriptor);
  Status (*choose)(Handle, Descriptor product, Descriptor a, Descriptor b, Descriptor c, Descriptor d,
                   Descriptor preference, int most, Choice*, int* found);
  Status (*multiply)(Handle, Descriptor product, const void* alpha, const void* a, Descriptor, const void* b,
                     Descriptor, const void* beta, const void* c, Descriptor, void* d, Descriptor, const Algorithm*,
                     void* scratch, size_t scratch_bytes, cudaStream_t);
  Handle handle = nullptr;
};

// Null where it is missing. Stays for the life of the process.
const Library* library() {
  static const Library* const found = []() -> const Library* {
    void* file = nullptr;
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"}) {
      if (file == nullptr) file = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (file == nullptr) return nullptr;
    static Library made;
    bool all = true;
    const auto take = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(file, name));
      all = all && function != nullptr;
    };
    take(made.create, "cublasLtCreate");
    take(made.create_product, "cublasLtMatmulDescCreate");
    take(made.set_product, "cublasLtMatmulDescSetAttribute");
    take(made.destroy_product, "cublasLtMatmulDescDestroy");
    take(made.create_layout, "cublasLtMatrixLayoutCreate");
    take(made.set_layout, "cublasLtMatrixLayoutSetAttribute");
    take(made.destroy_layout, "cublasLtMatrixLayoutDestroy");
    take(made.create_preference, "cublasLtMatmulPreferenceCreate");
    take(made.set_preference, "cublasLtMatmulPreferenceSetAttribute");
    take(made.destroy_preference, "cublasLtMatmulPreferenceDestroy");
    take(made.choose, "cublasLtMatmulAlgoGetHeuristic");
    take(made.multiply, "cublasLtMatmul");
    return all && made.create(&made.handle) == 0 ? &made : nullptr;
  }();
  return found;
}

}  // namespace

// Columns of a matrix in memory are what the library calls rows: it counts by columns.
struct DenseProduct::Plan {
  const Library& library;
  Descriptor product = nullptr;
  Descriptor weights = nullptr;
  Descriptor x = nullptr;
  Descriptor out = nullptr;
  Descriptor preference = nullptr;

  explicit Plan(const Library& of) : library(of) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (product != nullptr) library.destroy_product(product);
    for (const Descriptor layout : {weights, x, out}) {
      if (layout != nullptr) library.destroy_layout(layout);
    }
    if (preference != nullptr) library.destroy_preference(preference);
  }
  bool make(int type) {
    const size_t most = kScratchBytes;
    return library.create_product(&product, kCompute32F, CUDA_R_32F) == 0 &&
           library.set_product(product, kTransposeA, &kTransposed, sizeof kTransposed) == 0 &&
           library.create_layout(&weights, type, 64, 64, 64) == 0 && library.create_layout(&x, type, 64, 64, 64) == 0 &&
           library.create_layout(&out, CUDA_R_32F, 64, 64, 64) == 0 && library.create_preference(&preference) == 0 &&
           library.set_preference(preference, kMostScratch, &most, sizeof most) == 0;
  }
  bool shape(Descriptor layout, int rows, int columns, int leading) const {
    const auto wide_rows = static_cast<uint64_t>(rows);
    const auto wide_columns = static_cast<uint64_t>(columns);
    const int64_t wide_leading = leading;
    return library.set_layout(layout, kRows, &wide_rows, sizeof wide_rows) == 0 &&
           library.set_layout(layout, kColumns, &wide_columns, sizeof wide_columns) == 0 &&
           library.set_layout(layout, kLeading, &wide_leading, sizeof wide_leading) == 0;
  }
};

DenseProduct::DenseProduct(std::unique_ptr<Plan> plan) : plan_(std::move(plan)) {}
DenseProduct::~DenseProduct() = default;

std::unique_ptr<DenseProduct> DenseProduct::make(bool bf16) {
  if (library() == nullptr) return nullptr;
  auto plan = std::make_unique<Plan>(*library());
  if (!plan->make(bf16 ? CUDA_R_16BF : CUDA_R_16F)) return nullptr;
  return std::unique_ptr<DenseProduct>(new DenseProduct(std::move(plan)));
}

bool DenseProduct::multiply(cudaStream_t stream, const uint16_t* weights, const uint16_t* x, int n, int tokens, int k,
                            int columns, float alpha, float* out, std::byte* scratch) const noexcept {
  const Library& library = plan_->library;
  if (!plan_->shape(plan_->weights, k, n, k) || !plan_->shape(plan_->x, k, tokens, k) ||
      !plan_->shape(plan_->out, n, tokens, columns))
    return false;
  Choice choice;
  int found = 0;
  if (library.choose(library.handle, plan_->product, plan_->weights, plan_->x, plan_->out, plan_->out,
                     plan_->preference, 1, &choice, &found) != 0 ||
      found == 0)
    return false;
  const float beta = 0;
  return library.multiply(library.handle, plan_->product, &alpha, weights, plan_->weights, x, plan_->x, &beta, out,
                          plan_->out, out, plan_->out, &choice.algorithm, scratch, kScratchBytes, stream) == 0;
}

}  // namespace edgewise::cuda
