#include "text/jinja/budget.h"

#include "text/jinja/failure.h"

namespace edgewise::jinja {
namespace {

thread_local Budget* t_budget = nullptr;

const char* stack_position() { return static_cast<const char*>(__builtin_frame_address(0)); }

}  // namespace

Budget::Budget() : outer_(t_budget), stack_base_(stack_position()) { t_budget = this; }
Budget::~Budget() { t_budget = outer_; }

void Budget::step(int64_t count) {
  if (t_budget == nullptr) return;
  t_budget->steps_ += count;
  if (t_budget->steps_ > kMaxSteps) limit_error("the template does more than {} steps", kMaxSteps);
}

void Budget::check_text(size_t bytes) {
  if (bytes > kMaxTextBytes) limit_error("a text of {} bytes, at most {} are allowed", bytes, kMaxTextBytes);
}

void Budget::check_items(size_t count) {
  if (count > kMaxListItems) limit_error("a list of {} items, at most {} are allowed", count, kMaxListItems);
}

void Budget::check_stack() {
  if (t_budget == nullptr) return;
  const auto used = t_budget->stack_base_ - stack_position();
  if (used > static_cast<std::ptrdiff_t>(kMaxStackBytes)) limit_error("the template recurses too deeply");
}

Accounted::Accounted(size_t bytes) : budget_(t_budget), bytes_(bytes) {
  if (budget_ == nullptr) return;
  if (budget_->live_bytes_ + bytes > kMaxLiveBytes) {
    limit_error("the template holds more than {} MB", kMaxLiveBytes >> 20);
  }
  budget_->live_bytes_ += bytes;
  Budget::step(static_cast<int64_t>(bytes / 256));
}

Accounted::~Accounted() {
  if (budget_ != nullptr) budget_->live_bytes_ -= bytes_;
}

}  // namespace edgewise::jinja
