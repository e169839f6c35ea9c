#include "runtime/adapters.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace edgewise {
namespace fs = std::filesystem;
namespace {

uint64_t checksum_of(const Adapter& adapter) {
  uint64_t sum = 0;
  const auto add = [&](const void* data, size_t size) { sum = XXH3_64bits_withSeed(data, size, sum); };
  for (const auto& [module, weights] : adapter) {
    add(module.data(), module.size());
    add(&weights.scale, sizeof(weights.scale));
    for (const Tensor* matrix : {&weights.a, &weights.b}) {
      const DType dtype = matrix->dtype();
      add(&dtype, sizeof(dtype));
      add(matrix->shape().data(), matrix->shape().size() * sizeof(matrix->shape()[0]));
      add(matrix->bytes().data(), matrix->bytes().size());
    }
  }
  return sum;
}

}  // namespace

AdapterShelf::AdapterShelf(Executable& executable, Reader read, const AdapterLimits& limits)
    : executable_(executable), read_(std::move(read)), limits_(limits) {
  if (limits.idle.count() < 0) usage_error("--lora_idle_seconds {}: expected 0 or more", limits.idle.count());
  if (limits.most < 0) usage_error("--max_loras {}: expected 0 or more", limits.most);
}

size_t AdapterShelf::add(const std::string& name, const fs::path& path) {
  if (name.empty()) usage_error("adapter {}: it needs a name", path.string());
  const Adapter adapter = read_(path);
  std::promise<PackedAdapterPtr> packed;
  try {
    packed.set_value(executable_.pack_adapter(adapter));
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", path.string(), error.what()));
  }
  const auto known = std::make_shared<Known>();
  known->identity = {name, -1, checksum_of(adapter)};
  known->path = path;
  known->packed = packed.get_future().share();
  const std::lock_guard lock(mutex_);
  if (!adapters_.emplace(name, known).second) usage_error("adapter {}: there is one of that name already", name);
  known->identity.id = ++last_id_;
  note_load();
  return adapter.size();
}

std::shared_ptr<AdapterShelf::Known> AdapterShelf::known(const std::string& name) const {
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) usage_error("adapter {}: none of that name is loaded", name);
  return found->second;
}

AdapterIdentity AdapterShelf::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return known(name)->identity;
}

std::vector<std::string> AdapterShelf::names() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& [name, adapter] : adapters_) names.push_back(name);
  return names;
}

AdapterStats AdapterShelf::stats() const {
  const std::lock_guard lock(mutex_);
  return {static_cast<int>(adapters_.size()), loaded(), loads_};
}

AdapterUse AdapterShelf::use(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto adapter = known(name);
  if (!adapter->loaded()) {
    adapter->packed = std::async(std::launch::async, [this, identity = adapter->identity, path = adapter->path] {
                        return load(identity, path);
                      }).share();
    note_load();
  }
  const auto end_use = [this, adapter](const AdapterIdentity*) {
    const std::lock_guard lock(mutex_);
    --adapter->uses;
    adapter->last_use = Clock::now();
  };
  ++adapter->uses;
  return {std::shared_ptr<const AdapterIdentity>(&adapter->identity, end_use), adapter->packed};
}

PackedAdapterPtr AdapterShelf::load(const AdapterIdentity& identity, const fs::path& path) {
  const std::lock_guard lock(reading_);
  const Adapter adapter = read_(path);
  if (checksum_of(adapter) != identity.checksum) {
    bad_file("{}: no longer the adapter that was loaded as {}; unload {} and load it again", path.string(),
             identity.name, identity.name);
  }
  return executable_.pack_adapter(adapter);
}

void AdapterShelf::attach(const AdapterUse& use) {
  use.packed.wait();
  const std::lock_guard lock(mutex_);
  const auto adapter = known(use.adapter->name);
  if (adapter->attached) return;
  try {
    executable_.add_adapter(use.adapter->id, use.packed.get());
  } catch (...) {
    adapter->packed = {};  // the next request tries again
    throw;
  }
  adapter->packed = use.packed;
  adapter->attached = true;
}

void AdapterShelf::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto adapter = known(name);
  if (adapter->uses > 0) fail(ErrorKind::kBusy, "adapter {}: an answer under way uses it", name);
  unload(*adapter);
  adapters_.erase(name);
}

void AdapterShelf::unload_unused(Clock::time_point now) noexcept {
  const std::lock_guard lock(mutex_);
  const auto idle = [](const Known& adapter) { return adapter.loaded() && adapter.uses == 0; };
  if (limits_.idle.count() > 0 && now >= next_unload_) {
    next_unload_ = Clock::time_point::max();
    for (const auto& [name, adapter] : adapters_) {
      if (idle(*adapter) && now >= adapter->last_use + limits_.idle) unload(*adapter);
      if (adapter->loaded()) {
        next_unload_ = std::min(next_unload_, (adapter->uses > 0 ? now : adapter->last_use) + limits_.idle);
      }
    }
  }
  for (int surplus = limits_.most > 0 ? loaded() - limits_.most : 0; surplus > 0; --surplus) {
    Known* oldest = nullptr;
    for (const auto& [name, adapter] : adapters_) {
      if (idle(*adapter) && (oldest == nullptr || adapter->last_use < oldest->last_use)) oldest = adapter.get();
    }
    if (oldest == nullptr) return;
    unload(*oldest);
  }
}

AdapterShelf::Clock::time_point AdapterShelf::next_unload() const {
  const std::lock_guard lock(mutex_);
  return next_unload_;
}

void AdapterShelf::note_load() {
  ++loads_;
  if (limits_.idle.count() > 0) next_unload_ = std::min(next_unload_, Clock::now() + limits_.idle);
}

int AdapterShelf::loaded() const {
  return static_cast<int>(std::ranges::count_if(adapters_, [](const auto& entry) { return entry.second->loaded(); }));
}

// Waits for files that are being read on nobody's behalf any more.
void AdapterShelf::unload(Known& adapter) noexcept {
  if (std::exchange(adapter.attached, false)) executable_.remove_adapter(adapter.identity.id);
  adapter.packed = {};
}

}  // namespace edgewise
