#include "base/output_file.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

class OutputTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("edgewise-output-" + std::to_string(::getpid()));
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  size_t entries() const { return size_t(std::distance(fs::directory_iterator(directory_), {})); }
  fs::path directory_;
};

TEST_F(OutputTest, AppearsOnlyAtCommit) {
  {
    OutputFile file(directory_ / "a");
    file.write("half");
    EXPECT_FALSE(fs::exists(directory_ / "a"));
  }
  EXPECT_EQ(entries(), 0u);
  write_text_file(directory_ / "a", "whole");
  EXPECT_EQ(read_text_file(directory_ / "a"), "whole");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(OutputTest, MissingParentIsAnError) { EXPECT_THROW(OutputFile(directory_ / "missing" / "a"), Error); }

TEST_F(OutputTest, DirectoryReplacesOnlyItsOwnKind) {
  {
    OutputDirectory out(directory_ / "engine", "engine.bin");
    write_text_file(out.path() / "engine.bin", "1");
    out.commit();
  }
  {
    OutputDirectory out(directory_ / "engine/", "engine.bin");
    write_text_file(out.path() / "engine.bin", "2");
    out.commit();
  }
  EXPECT_EQ(read_text_file(directory_ / "engine" / "engine.bin"), "2");
  EXPECT_EQ(entries(), 1u);
  fs::create_directories(directory_ / "home");
  write_text_file(directory_ / "home" / "precious", "x");
  EXPECT_THROW(OutputDirectory(directory_ / "home", "engine.bin"), Error);
  EXPECT_TRUE(fs::exists(directory_ / "home" / "precious"));
}

TEST_F(OutputTest, MapsEmptyAndMissingFiles) {
  write_text_file(directory_ / "empty", "");
  EXPECT_TRUE(MappedFile::open(directory_ / "empty")->bytes().empty());
  EXPECT_THROW(MappedFile::open(directory_ / "absent"), Error);
  EXPECT_THROW(MappedFile::open(directory_), Error);
}

// Several processes make the same directory: all succeed, and from the first commit on it is always there.
TEST_F(OutputTest, ProcessesMayCommitTheSameDirectory) {
  const fs::path target = directory_ / "shared";
  std::vector<pid_t> children;
  for (int child = 0; child < 4; ++child) {
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
      int failures = 0;
      for (int round = 0; round < 100; ++round) {
        try {
          OutputDirectory out(target, "marker");
          write_text_file(out.path() / "marker", "x");
          out.commit();
          failures += !fs::exists(target / "marker");
        } catch (const std::exception&) {
          ++failures;
        }
      }
      ::_exit(failures > 0 ? 1 : 0);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace edgewise
