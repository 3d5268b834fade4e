// Listing, fencing and publishing; see folder.h.
#include "runtime/checkpoint/folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <tuple>
#include <utility>

#include "base/file.h"
#include "runtime/checkpoint/manifest.h"

namespace dsv3::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step-";
constexpr std::string_view kTemporaryPrefix = ".tmp-step-";
constexpr std::string_view kUnusablePrefix = "unusable-";
constexpr std::string_view kAttemptMark = "-attempt-";
constexpr std::string_view kClaimFile = ".attempt";

// The number that a whole text is, or −1.
int64_t number_of(std::string_view text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

std::vector<std::string> names_in(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  return names;
}

// What the claim file says: the attempt on its first line, the submission on its second.
struct Claim {
  int64_t attempt = 0;     // 0: none has claimed DIR
  std::string submission;  // "": of any
};

// kFailed when the claim cannot be read.
Result<Claim> read_claim(const std::string& dir) {
  const std::string path = fmt::format("{}/{}", dir, kClaimFile);
  const auto text = read_file(path, 256);
  if (!text.ok()) {
    if (text.status().code() == Code::kNotFound) return Claim();
    return text.status();
  }
  const size_t end = std::min(text->find('\n'), text->size());
  Claim claim{number_of(std::string_view(*text).substr(0, end))};
  if (claim.attempt < 0)
    return Status(Code::kFailed, fmt::format("'{}' does not hold an attempt's number", path));
  if (end < text->size())
    claim.submission = text->substr(end + 1, text->find('\n', end + 1) - end - 1);
  return claim;
}

Status system_error(const char* what, const std::string& path) {
  return Status(Code::kFailed, fmt::format("{} '{}': {}", what, path, std::strerror(errno)));
}

}  // namespace

std::string step_folder_name(int64_t step) {
  return fmt::format("{}{:08}", kStepPrefix, step);
}

int64_t step_of_folder_name(const std::string& name) {
  if (!name.starts_with(kStepPrefix)) return -1;
  return number_of(std::string_view(name).substr(kStepPrefix.size()));
}

std::string temporary_folder_name(int64_t step, int64_t attempt) {
  return fmt::format("{}{:08}{}{}", kTemporaryPrefix, step, kAttemptMark, attempt);
}

std::vector<Listed> list_checkpoints(const std::string& dir) {
  std::vector<Listed> listed;
  for (const std::string& name : names_in(dir)) {
    Listed entry;
    entry.step = step_of_folder_name(name);
    if (entry.step < 0) continue;
    entry.path = dir + "/" + name;
    const auto head = read_manifest_head(entry.path);
    if (!head.ok()) {
      entry.fault = head.status().message();
    } else if (head->step != entry.step) {
      entry.fault = fmt::format("'{}' holds step {}", entry.path, head->step);
    } else {
      entry.attempt = head->attempt;
      entry.job = head->job;
    }
    listed.push_back(std::move(entry));
  }
  std::sort(listed.begin(), listed.end(), [](const Listed& a, const Listed& b) {
    return std::tuple(a.attempt < 0, a.attempt, a.step) >
           std::tuple(b.attempt < 0, b.attempt, b.step);
  });
  return listed;
}

Result<FolderLock> FolderLock::acquire(const std::string& dir) {
  const std::string path = dir + "/.lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return system_error("cannot open", path);
  int outcome = 0;
  do {
    outcome = ::flock(fd, LOCK_EX);
  } while (outcome != 0 && errno == EINTR);
  if (outcome != 0) {
    Status status = system_error("cannot lock", path);
    ::close(fd);
    return status;
  }
  return FolderLock(fd);
}

FolderLock::FolderLock(FolderLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

Status check_not_fenced(const std::string& dir, int64_t attempt) {
  DSV3_ASSIGN_OR_RETURN(const Claim claimed, read_claim(dir));
  if (claimed.attempt <= attempt) return {};
  return Status(Code::kConflict,
                fmt::format("attempt {} cannot publish in '{}': attempt {} has begun", attempt, dir,
                            claimed.attempt));
}

Status check_fence(const std::string& dir, const std::string& job, int64_t attempt) {
  DSV3_RETURN_IF_ERROR(check_not_fenced(dir, attempt));
  for (const Listed& entry : list_checkpoints(dir)) {
    if (entry.attempt < 0) continue;
    if (entry.job != job) {
      return Status(Code::kConflict,
                    fmt::format("'{}' belongs to job '{}', not '{}'", entry.path, entry.job, job),
                    "give each job its own checkpoint.path");
    }
    if (entry.attempt > attempt) {
      return Status(Code::kConflict,
                    fmt::format("attempt {} cannot publish in '{}': attempt {} has saved step {}",
                                attempt, dir, entry.attempt, entry.step));
    }
  }
  return {};
}

Status publish(const std::string& dir, const std::string& temporary, int64_t step) {
  const std::string target = fmt::format("{}/{}", dir, step_folder_name(step));
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    if (errno != ENOTEMPTY && errno != EEXIST) return system_error("cannot rename to", target);
    // Both names change places at once, so that there is a whole folder under the step's name at
    // any moment.
    if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) != 0) {
      if (errno != EINVAL && errno != ENOSYS) return system_error("cannot exchange", target);
      const std::string aside = temporary + "-replaced";  // a file system without the exchange
      if (::rename(target.c_str(), aside.c_str()) != 0)
        return system_error("cannot rename", target);
      if (::rename(temporary.c_str(), target.c_str()) != 0)
        return system_error("cannot rename to", target);
      DSV3_RETURN_IF_ERROR(sync_path(dir));
      DSV3_RETURN_IF_ERROR(remove_folder(aside));
    }
  }
  return sync_path(dir);
}

Status check_claim(const std::string& dir, int64_t attempt) {
  DSV3_ASSIGN_OR_RETURN(const Claim claimed, read_claim(dir));
  if (claimed.attempt == attempt) return {};
  return Status(Code::kConflict, fmt::format("attempt {} does not hold '{}': attempt {} has begun",
                                             attempt, dir, claimed.attempt));
}

Result<std::string> set_folder_aside(const std::string& path) {
  const size_t name = path.find_last_of('/') + 1;
  const std::string base =
      fmt::format("{}{}{}", path.substr(0, name), kUnusablePrefix, path.substr(name));
  std::string target = base;
  // A rename onto an empty folder would replace it; the caller's lock keeps others away.
  for (int suffix = 2; path_exists(target); ++suffix) target = fmt::format("{}-{}", base, suffix);
  if (::rename(path.c_str(), target.c_str()) != 0) return system_error("cannot set aside", path);
  return target;
}

Status remove_folder(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error)
    return Status(Code::kFailed, fmt::format("cannot delete '{}': {}", path, error.message()));
  return {};
}

void remove_leftovers(const std::string& dir, int64_t attempt) {
  for (const std::string& name : names_in(dir)) {
    if (name.starts_with(std::string(kLatestFile) + ".tmp.")) {  // of a writer that was killed
      static_cast<void>(::unlink((dir + "/" + name).c_str()));
      continue;
    }
    const size_t mark = name.find(kAttemptMark);
    if (!name.starts_with(kTemporaryPrefix) || mark == std::string::npos) continue;
    const std::string_view rest = std::string_view(name).substr(mark + kAttemptMark.size());
    const int64_t writer = number_of(rest.substr(0, rest.find('-')));
    // What cannot be deleted is in nobody's way: no reader looks at it.
    if (writer >= 0 && writer <= attempt) static_cast<void>(remove_folder(dir + "/" + name).ok());
  }
}

Status claim(const std::string& dir, int64_t attempt, const std::string& submission) {
  DSV3_RETURN_IF_ERROR(make_dirs(dir));
  DSV3_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::acquire(dir));
  DSV3_ASSIGN_OR_RETURN(Claim claimed, read_claim(dir));
  if (!submission.empty() && !claimed.submission.empty() && claimed.submission != submission) {
    return Status(Code::kConflict,
                  fmt::format("'{}' belongs to a job of the same name from another state directory "
                              "or database",
                              dir),
                  "choose another checkpoint.path; to go on from what it holds, set "
                  "checkpoint.load to it");
  }
  if (claimed.attempt > attempt) {
    return Status(Code::kConflict,
                  fmt::format("attempt {} comes too late: attempt {} has begun in '{}'", attempt,
                              claimed.attempt, dir));
  }
  const bool named = !claimed.submission.empty() || submission.empty();
  if (claimed.attempt == attempt && named) return {};
  if (!named) claimed.submission = submission;
  std::string text = fmt::format("{}\n", attempt);
  if (!claimed.submission.empty()) text += claimed.submission + "\n";
  return write_file(fmt::format("{}/{}", dir, kClaimFile), text);
}

}  // namespace dsv3::checkpoint
