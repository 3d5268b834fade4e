// Unpacking, cutting, cleaning and shuffling of the dictionary; see demo_text.h.
#include "runtime/data/demo_text.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <numeric>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "base/leftovers.h"
#include "base/process.h"
#include "base/rng.h"
#include "base/text.h"
#include "runtime/data/permutation.h"

namespace dsv3::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDictBytesMax = size_t{1} << 30;

// Runs a program to its end, output into a log; kFailed with the log's last line when it fails,
// kTimeout when late.
Status run(std::vector<std::string> argv, const std::string& working_dir,
           const std::string& log_path, double deadline_s) {
  const std::string name = argv[0];
  SpawnOptions options;
  options.argv = std::move(argv);
  options.working_dir = working_dir;
  options.stdout_path = log_path;
  options.stderr_path = log_path;
  options.die_with_parent = true;
  ::unlink(log_path.c_str());
  DSV3_ASSIGN_OR_RETURN(const pid_t pid, spawn(options));
  const int64_t begin_ns = system_clock().steady_ns();
  while (true) {
    if (const auto code = try_reap(pid)) {
      if (*code == 0) return {};
      const auto log = read_file(log_path);
      std::string last;
      if (log.ok()) {
        for (const std::string& line : split(*log, '\n')) last = line.empty() ? last : line;
      }
      return Status(Code::kFailed, fmt::format("'{}' ended with exit {}: {}", name, *code, last));
    }
    if (static_cast<double>(system_clock().steady_ns() - begin_ns) * 1e-9 > deadline_s) {
      ::kill(pid, SIGKILL);
      while (!try_reap(pid)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      return Status(Code::kTimeout, fmt::format("'{}' took longer than {} s", name, deadline_s));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// The first file below `root` whose name ends so, in the order of their paths; "" without one.
std::string find_below(const std::string& root, std::string_view ending) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().string().ends_with(ending)) found.push_back(it->path().string());
  }
  std::sort(found.begin(), found.end());
  return found.empty() ? "" : found.front();
}

// A gzip (or plain) file's content; dictzip is gzip with an index in its header.
Result<std::string> read_gzip(const std::string& path) {
  gzFile file = gzopen(path.c_str(), "rb");
  if (file == nullptr) return Status(Code::kNotFound, fmt::format("cannot read '{}'", path));
  std::string text;
  std::vector<char> buffer(size_t{1} << 20);
  int n = 0;
  while ((n = gzread(file, buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    text.append(buffer.data(), static_cast<size_t>(n));
    if (text.size() > kDictBytesMax) break;
  }
  int zlib_error = Z_OK;
  const std::string reason = gzerror(file, &zlib_error);
  gzclose(file);
  if (n < 0 || zlib_error != Z_OK) {
    return Status(Code::kInvalid, fmt::format("'{}' is not whole gzip data: {}", path, reason));
  }
  if (text.size() > kDictBytesMax)
    return Status(Code::kInvalid, fmt::format("'{}' is too large", path));
  return text;
}

// dictd's numbers: base 64, most significant digit first; −1 for anything else.
int64_t dict_number(std::string_view digits) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  if (digits.empty() || digits.size() > 10) return -1;
  int64_t value = 0;
  for (const char digit : digits) {
    const size_t place = kDigits.find(digit);
    if (place == std::string_view::npos) return -1;
    value = value * 64 + static_cast<int64_t>(place);
  }
  return value;
}

// The distinct (offset, length) of the index, in the order of the text. Several headwords share an
// entry; the database's description of itself ("00-…") is no entry.
Result<std::vector<std::pair<int64_t, int64_t>>> read_index(const std::string& path,
                                                            int64_t text_bytes) {
  DSV3_ASSIGN_OR_RETURN(const std::string index, read_file(path, int64_t{256} << 20));
  std::vector<std::pair<int64_t, int64_t>> entries;
  int64_t line_number = 0;
  for (const std::string& line : split(index, '\n')) {
    ++line_number;
    if (line.empty() || line.starts_with("00-")) continue;
    const std::vector<std::string> fields = split(line, '\t');
    const int64_t offset = fields.size() < 3 ? -1 : dict_number(fields[1]);
    const int64_t length = fields.size() < 3 ? -1 : dict_number(fields[2]);
    if (offset < 0 || length < 0 || offset > text_bytes || length > text_bytes - offset) {
      return Status(Code::kInvalid,
                    fmt::format("not an entry of a text of {} bytes: '{}'", text_bytes, line), "",
                    fmt::format("{}:{}", path, line_number));
    }
    entries.emplace_back(offset, length);
  }
  std::sort(entries.begin(), entries.end());
  entries.erase(std::unique(entries.begin(), entries.end()), entries.end());
  return entries;
}

// The dictionary's files for a source that a user named.
Result<DictFiles> dict_files_of(const std::string& source, const std::string& work_dir,
                                double deadline_s) {
  if (source.ends_with(".deb")) return unpack_dict_package(source, work_dir, deadline_s);
  DictFiles files;
  files.dict_path = source;
  files.index_path = source.substr(0, source.rfind(".dict")) + ".index";
  return files;
}

}  // namespace

Result<std::string> fetch_dict_package(const std::string& work_dir, double deadline_s) {
  DSV3_RETURN_IF_ERROR(make_dirs(work_dir));
  if (std::string deb = find_below(work_dir, ".deb"); !deb.empty()) return deb;
  // apt-get downloads into the current folder, and unpacks nothing.
  const Status status = run({"/usr/bin/apt-get", "download", "dict-gcide"}, work_dir,
                            fs::absolute(work_dir).string() + "/download.log", deadline_s);
  if (!status.ok()) {
    return Status(Code::kFailed, "cannot download the demo's text: " + status.message(),
                  "run `apt-get update`, or name the package's .deb or any text file instead");
  }
  std::string deb = find_below(work_dir, ".deb");
  if (deb.empty())
    return Status(Code::kFailed, fmt::format("apt-get left no package in '{}'", work_dir));
  return deb;
}

Result<DictFiles> unpack_dict_package(const std::string& deb_path, const std::string& work_dir,
                                      double deadline_s) {
  const std::string root = work_dir + "/unpacked";
  DSV3_RETURN_IF_ERROR(make_dirs(root));
  DSV3_RETURN_IF_ERROR(
      run({"/usr/bin/dpkg-deb", "-x", deb_path, root}, "", work_dir + "/unpack.log", deadline_s));
  DictFiles files{find_below(root, ".dict.dz"), find_below(root, ".index")};
  if (files.dict_path.empty() || files.index_path.empty()) {
    return Status(Code::kInvalid,
                  fmt::format("'{}' holds no dictionary (.dict.dz and .index)", deb_path));
  }
  return files;
}

Result<DemoTextReport> write_demo_text(const DemoTextOptions& options) {
  DSV3_ASSIGN_OR_RETURN(const std::string text, read_gzip(options.files.dict_path));
  DSV3_ASSIGN_OR_RETURN(const auto entries,
                        read_index(options.files.index_path, static_cast<int64_t>(text.size())));
  std::vector<uint32_t> order(entries.size());
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order, CounterRng(static_cast<uint64_t>(options.seed), name_key("demo_text")));
  DSV3_ASSIGN_OR_RETURN(FileWriter out, FileWriter::create(options.out_path));
  DemoTextReport report;
  for (const uint32_t entry : order) {
    const auto [offset, length] = entries[entry];
    const std::string document = clean_entry(std::string_view(text).substr(offset, length));
    if (document.empty()) continue;
    if (report.num_documents++ > 0) DSV3_RETURN_IF_ERROR(out.append(kDemoSeparator));
    DSV3_RETURN_IF_ERROR(out.append(document));
  }
  if (report.num_documents == 0) {
    return Status(Code::kInvalid, fmt::format("'{}' names no entries", options.files.index_path));
  }
  report.text_bytes = out.size_bytes();
  DSV3_RETURN_IF_ERROR(out.finish());
  return report;
}

Result<std::string> ensure_demo_text(const std::string& work_dir, const std::string& source,
                                     double deadline_s) {
  const bool ready_text =
      !source.empty() && !source.ends_with(".deb") && source.find(".dict") == std::string::npos;
  if (ready_text) {
    if (!path_exists(source))
      return Status(Code::kNotFound, fmt::format("there is no '{}'", source));
    return source;
  }
  DemoTextOptions options;
  options.out_path = work_dir + "/gcide.txt";
  if (path_exists(options.out_path)) return options.out_path;
  // Half a download would be taken for the package the next time.
  const Leftover leftover = path_exists(work_dir) ? Leftover() : Leftover(work_dir);
  DSV3_RETURN_IF_ERROR(make_dirs(work_dir));
  std::string from = source;
  if (from.empty()) {
    DSV3_ASSIGN_OR_RETURN(from, fetch_dict_package(work_dir, deadline_s));
  }
  DSV3_ASSIGN_OR_RETURN(options.files, dict_files_of(from, work_dir, deadline_s));
  DSV3_ASSIGN_OR_RETURN(const DemoTextReport report, write_demo_text(options));
  static_cast<void>(report);
  return options.out_path;
}

}  // namespace dsv3::data
