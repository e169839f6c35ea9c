// What tests of executables on the GPU share.
#pragma once

#include <gtest/gtest.h>

#include "backends/cuda/backend.h"
#include "backends/cuda/executable.h"
#include "backends/test_model.h"

namespace edgewise::cuda {

// Skipped, and says so, where there is no GPU.
class CudaExecutableTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = why_no_device()) GTEST_SKIP() << why;
  }
};

inline LoadOptions options_for(const StepMaker& steps, DType kv) {
  LoadOptions options;
  options.max_tokens = 300;
  options.max_sequences = 4;
  options.max_rows = 300;
  options.kv_pages = steps.pages();
  options.kv_dtype = kv;
  options.threads = 2;
  return options;
}

}  // namespace edgewise::cuda
