// See keys.h. A key file is two lines: "public <Z85>" and "secret <Z85>"; an allow-list file is one
// Z85 key.
#include "coordinator/transport/keys.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace dsv3::transport {
namespace {

constexpr size_t kKeyChars = 40;
constexpr int64_t kKeyFileMaxBytes = 4096;

std::string keys_dir(const std::string& state_dir) {
  return state_dir + "/keys";
}
std::string key_path(const std::string& state_dir, const std::string& name) {
  return fmt::format("{}/{}.key", keys_dir(state_dir), name);
}

std::string strip(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

std::optional<Role> role_of(std::string_view stem) {
  const std::string_view head = stem.substr(0, stem.find('-'));
  if (head == "client") return Role::kClient;
  if (head == "agent") return Role::kAgent;
  return std::nullopt;
}

}  // namespace

Result<KeyPair> generate_key_pair() {
  std::array<char, kKeyChars + 1> public_key{};
  std::array<char, kKeyChars + 1> secret_key{};
  if (zmq_curve_keypair(public_key.data(), secret_key.data()) != 0) {
    return Status(Code::kFailed,
                  fmt::format("cannot make a CURVE key pair: {}", zmq_strerror(zmq_errno())),
                  "libzmq must be built with libsodium");
  }
  return KeyPair{public_key.data(), secret_key.data()};
}

Status create_key_pair(const std::string& state_dir, const std::string& name, bool allowed) {
  const std::string path = key_path(state_dir, name);
  if (path_exists(path))
    return Status(Code::kConflict, fmt::format("the key file '{}' is there already", path));
  DSV3_RETURN_IF_ERROR(make_dirs(state_dir, 0700));
  DSV3_RETURN_IF_ERROR(make_dirs(keys_dir(state_dir), 0700));
  DSV3_ASSIGN_OR_RETURN(const KeyPair pair, generate_key_pair());
  if (allowed) {
    const std::string folder = keys_dir(state_dir) + "/allowed";
    DSV3_RETURN_IF_ERROR(make_dirs(folder, 0700));
    DSV3_RETURN_IF_ERROR(
        write_file(fmt::format("{}/{}.pub", folder, name), pair.public_key + "\n", 0600));
  }
  return write_file(path, fmt::format("public {}\nsecret {}\n", pair.public_key, pair.secret_key),
                    0600);
}

Status ensure_keys(const std::string& state_dir) {
  for (const char* name : {"server", "client", "agent"}) {
    if (path_exists(key_path(state_dir, name))) continue;
    DSV3_RETURN_IF_ERROR(create_key_pair(state_dir, name, std::string_view(name) != "server"));
  }
  return {};
}

Result<KeyPair> load_key_pair(const std::string& state_dir, const std::string& name) {
  const std::string path = key_path(state_dir, name);
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    return Status(Code::kNotFound, fmt::format("there is no key file '{}'", path),
                  "start a coordinator with `dsv3ctl up`");
  }
  if ((info.st_mode & 077) != 0) {
    return Status(Code::kNotAuthorised,
                  fmt::format("the key file '{}' can be read by other users", path),
                  fmt::format("chmod 600 {}", path));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    return Status(Code::kNotAuthorised,
                  fmt::format("the key file '{}' can't be read by this user", path));
  }
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_file(path, kKeyFileMaxBytes));
  KeyPair pair;
  for (const std::string& line : split(text, '\n')) {
    if (line.starts_with("public ")) pair.public_key = strip(std::string_view(line).substr(7));
    if (line.starts_with("secret ")) pair.secret_key = strip(std::string_view(line).substr(7));
  }
  if (pair.public_key.size() != kKeyChars || pair.secret_key.size() != kKeyChars) {
    return Status(Code::kInvalid, fmt::format("'{}' is not a key file", path),
                  "remove it and run `dsv3ctl up`");
  }
  return pair;
}

std::optional<AllowedKey> find_allowed_key(const std::string& state_dir,
                                           const std::string& public_key) {
  std::error_code error;  // a folder that can't be read lists nobody
  std::filesystem::directory_iterator entry(keys_dir(state_dir) + "/allowed", error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (entry->path().extension() != ".pub") continue;
    const std::string stem = entry->path().stem().string();
    const std::optional<Role> role = role_of(stem);
    const Result<std::string> text = read_file(entry->path().string(), kKeyFileMaxBytes);
    if (role && text.ok() && strip(*text) == public_key) return AllowedKey{stem, *role};
  }
  return std::nullopt;
}

}  // namespace dsv3::transport
