// A fault of the GPU ends what is under way with its name. A program of its own, since none goes on behind a fault.
#include "bad_address.h"
#include "base/error.h"
#include "cuda_runtime_fixture.h"

namespace edgewise {
namespace {

TEST_F(CudaRuntimeTest, AFaultEndsTheEngine) {
  const auto ids = prompt(3, 50);
  const auto l = limits(2, 64);
  auto executable = load(l);
  auto scheduler = std::make_unique<Scheduler>(*executable, l, std::vector<int32_t>());
  Sequence a(ids, {}, 20, vocabulary_);
  Sequence b(prompt(4, 20), {}, 20, vocabulary_);
  ASSERT_TRUE(scheduler->submit(a));
  ASSERT_TRUE(scheduler->submit(b));
  ASSERT_EQ(scheduler->step(), StepOutcome::kDone);
  ASSERT_EQ(executable->fault(), "");
  ASSERT_NE(write_to_bad_address(), cudaSuccess);
  EXPECT_EQ(scheduler->step(), StepOutcome::kDeviceFault);
  EXPECT_EQ(a.finish, FinishReason::kError);
  EXPECT_EQ(b.finish, FinishReason::kError);
  EXPECT_NE(executable->fault().find("cudaErrorIllegalAddress"), std::string::npos) << executable->fault();
  Sequence c(ids, {}, 20, vocabulary_);
  ASSERT_TRUE(scheduler->submit(c));
  EXPECT_EQ(scheduler->step(), StepOutcome::kDeviceFault);
  EXPECT_EQ(c.finish, FinishReason::kError);
  scheduler.reset();
  executable.reset();
  try {
    load(l);
    ADD_FAILURE() << "an engine was loaded after a fault";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("cudaErrorIllegalAddress"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace edgewise
