// What tests of executables on the GPU share.
#pragma once

#include <gtest/gtest.h>

#include "backends/cuda/backend.h"
#include "backends/cuda/executable.h"
#include "backends/test_model.h"

namespace edgewise::cuda {

using Script = std::vector<std::vector<Feed>>;  // what each step is fed

// Skipped, and says so, where there is no GPU.
class CudaExecutableTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* why = why_no_device()) GTEST_SKIP() << why;
  }
};

}  // namespace edgewise::cuda
