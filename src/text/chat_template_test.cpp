#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/mapped_file.h"
#include "base/output_file.h"

namespace edgewise {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(EDGEWISE_SOURCE_DIR) / "tests/data";

std::tm fixed_day() {
  std::tm day{};
  day.tm_year = 126;
  day.tm_mon = 6;
  day.tm_mday = 26;
  day.tm_hour = 0;
  std::mktime(&day);
  return day;
}

std::string render(const std::string& source, const OrderedJson& inputs = OrderedJson::object()) {
  ChatTemplate chat_template = ChatTemplate::parse(source, "test.jinja");
  chat_template.set_clock(fixed_day);
  return chat_template.render(inputs);
}

TEST(ChatTemplateGoldens, RealTemplatesMatchTransformers) {
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(kData / "chat_templates")) {
    const fs::path path = entry.path();
    if (path.extension() != ".jinja") continue;
    const std::string source = read_text_file(path);
    fs::path golden = path;
    golden.replace_extension(".golden.json");
    for (const OrderedJson& item : parse_ordered_json(read_text_file(golden), golden.string())) {
      ++cases;
      if (item.contains("error")) {
        EXPECT_THROW(render(source, item.at("inputs")), Error) << path << " " << cases;
        continue;
      }
      EXPECT_EQ(render(source, item.at("inputs")), item.at("rendered").get<std::string>()) << path;
    }
  }
  EXPECT_GE(cases, 280);
}

}  // namespace
}  // namespace edgewise
