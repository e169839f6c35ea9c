// A fault of the GPU, made on purpose.
#pragma once

#include <cuda_runtime_api.h>

namespace edgewise {

// Every call of this process to the GPU fails from then on.
cudaError_t write_to_bad_address();

}  // namespace edgewise
