// Models by name: a directory, or "org/name[@revision]" on the Hugging Face hub.
#pragma once

#include <filesystem>
#include <string>

namespace edgewise {

// A directory is taken as it is. A hub name is looked up in the local Hugging Face cache ($HF_HUB_CACHE,
// $HF_HOME/hub, ~/.cache/huggingface/hub), which other tools share; a complete copy there is used without asking the
// network. Otherwise the files Edgewise needs are downloaded into it from $HF_ENDPOINT (https://huggingface.co),
// with the token of $HF_TOKEN or $HF_HOME/token, continuing where an interrupted download stopped, and checked
// against the hub's checksums. HF_HUB_OFFLINE=1 forbids the network.
// Throws Error: kUsage for what is neither directory nor model, kIo for network and disk, kBadFile for content that
// fails its checksum or a server that breaks its protocol, kInterrupted after Ctrl-C (a later call resumes).
std::filesystem::path resolve_model(const std::string& dir_or_hub_name);

}  // namespace edgewise
