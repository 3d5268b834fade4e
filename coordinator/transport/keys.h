// Key files of CURVE: <state-dir>/keys/{server,client,agent}.key (0600) and the allow-list
// keys/allowed/*.pub.
//
// Law: a connection is admitted only when its public key stands in keys/allowed/, and the file's
// stem up to the first '-' is its role ("client" may ask, "agent" may report). A key file that
// others can read is refused.
#pragma once

#include <optional>
#include <string>

#include "base/status.h"

namespace dsv3::transport {

// Z85, 40 characters each.
struct KeyPair {
  std::string public_key;
  std::string secret_key;
};

enum class Role { kClient, kAgent };

// A fresh pair from libzmq's CURVE (libsodium).
Result<KeyPair> generate_key_pair();
// Makes keys/ (0700) with the pairs server, client and agent and the allow-list of the latter two,
// where they are absent. Idempotent.
Status ensure_keys(const std::string& state_dir);
// Reads <state_dir>/keys/<name>.key. kNotFound when absent; kNotAuthorised when not readable, or
// readable by others.
Result<KeyPair> load_key_pair(const std::string& state_dir, const std::string& name);
// Writes a new pair <name>.key; `allowed` puts its public half into the allow-list. Refuses to
// replace one (kConflict).
Status create_key_pair(const std::string& state_dir, const std::string& name, bool allowed);

struct AllowedKey {
  std::string name;  // stem of the file in keys/allowed
  Role role;
};
// The allow-list's entry for a public key (Z85), read from the folder now; nullopt when there is
// none.
std::optional<AllowedKey> find_allowed_key(const std::string& state_dir,
                                           const std::string& public_key);

}  // namespace dsv3::transport
