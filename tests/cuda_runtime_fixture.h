// The scheduler over a real model on the GPU. Where there is none the tests are skipped, and say so.
#pragma once

#include "backends/cuda/device.h"
#include "runtime_fixture.h"

namespace edgewise {

class CudaRuntimeTest : public RuntimeTest {
 protected:
  void SetUp() override {
    if (const char* why = cuda::why_no_device()) GTEST_SKIP() << why;
    RuntimeTest::SetUp();
  }
  const char* device() const override { return "cuda"; }
};

}  // namespace edgewise
