// A TCP connection, encrypted or not. Waits are bounded and end on Ctrl-C.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "hub/url.h"

namespace edgewise::hub {

class Stream {
 public:
  virtual ~Stream() = default;
  // Throw Error(kIo) naming the host, Error(kInterrupted).
  virtual void write(std::string_view bytes) = 0;
  // At least one byte, or 0 when the peer is done.
  virtual size_t read(std::span<char> out) = 0;
};

// Verifies the certificate against the system's authorities, or those of $SSL_CERT_FILE and $SSL_CERT_DIR.
std::unique_ptr<Stream> connect_to(const Url& url);

}  // namespace edgewise::hub
