// The adapters of a session: known by their names for as long as it lives, in memory while requests use them.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/backend.h"

namespace edgewise {

struct AdapterLimits {
  std::chrono::seconds idle{0};  // out of memory when unused for so long; 0: never
  int most = 0;                  // in memory, where requests do not use more; 0: any number
};

struct AdapterStats {
  int known = 0;
  int loaded = 0;
  uint64_t loads = 0;  // from files, since the start
};

// What cached pages and saved sessions know of an adapter.
struct AdapterIdentity {
  std::string name;
  int32_t id = -1;        // in the executable; never another adapter's
  uint64_t checksum = 0;  // of its matrices and scales as the engine computes with them
};

using PackedAdapterPtr = std::shared_ptr<const PackedAdapter>;

// A request's hold on an adapter, which keeps it in memory.
struct AdapterUse {
  std::shared_ptr<const AdapterIdentity> adapter;
  std::shared_future<PackedAdapterPtr> packed;

  // Whether attach() need not wait for its files.
  bool ready() const { return packed.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }
};

class AdapterShelf {
 public:
  using Clock = std::chrono::steady_clock;
  using Reader = std::function<Adapter(const std::filesystem::path& path)>;

  // `read` is called from threads of the shelf, one at a time, and from those that call add().
  AdapterShelf(Executable& executable, Reader read, const AdapterLimits& limits);

  // From any thread. Reads the files and returns how many modules the adapter changes. Throws Error(kUsage) for a name
  // in use, Error naming what does not fit.
  size_t add(const std::string& name, const std::filesystem::path& path);
  // Throws Error(kUsage) for a name that is not known.
  AdapterIdentity find(const std::string& name) const;
  std::vector<std::string> names() const;
  AdapterStats stats() const;
  // From any thread. Has the files read beside the steps when the adapter is not in memory. Throws Error(kUsage) for a
  // name that is not known.
  AdapterUse use(const std::string& name);

  // The rest between steps only.
  // To be called before the sequence runs; waits until the files are read. Throws Error when they are gone, or hold
  // something else than what add() read: pages of the cache and saved sessions would be another adapter's.
  void attach(const AdapterUse& use);
  // Forgets the adapter. Throws Error(kUsage) for a name that is not known, Error(kBusy) while it is used.
  void remove(const std::string& name);
  // Puts those out of memory that were unused for too long, or are too many.
  void unload_unused(Clock::time_point now = Clock::now()) noexcept;
  // Before then unload_unused() has nothing to do, unless there are too many.
  Clock::time_point next_unload() const;

 private:
  struct Known {
    AdapterIdentity identity;
    std::filesystem::path path;
    std::shared_future<PackedAdapterPtr> packed;  // valid: in memory, or on its way there
    bool attached = false;
    int uses = 0;
    Clock::time_point last_use = Clock::now();

    bool loaded() const { return packed.valid() || attached; }
  };

  std::shared_ptr<Known> known(const std::string& name) const;
  PackedAdapterPtr load(const AdapterIdentity& identity, const std::filesystem::path& path);
  void note_load();
  int loaded() const;
  void unload(Known& adapter) noexcept;

  Executable& executable_;
  Reader read_;
  AdapterLimits limits_;
  std::mutex reading_;        // one reads at a time: the cores are the model's
  mutable std::mutex mutex_;  // guards those below, and what they point to
  Clock::time_point next_unload_ = Clock::time_point::max();
  int32_t last_id_ = 0;
  uint64_t loads_ = 0;
  std::map<std::string, std::shared_ptr<Known>> adapters_;  // first to go: it waits for those that read
};

}  // namespace edgewise
