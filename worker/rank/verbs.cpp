// See verbs.h.
#include "worker/rank/verbs.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>

#include "base/bus_error.h"
#include "base/failure.h"
#include "base/log.h"
#include "worker/rank/verb_io.h"

namespace dsv3::rank {
namespace {

struct Verb {
  const char* name;
  int (*run)(const std::vector<std::string>& words);
  const char* summary;
};

constexpr Verb kVerbs[] = {
    {"train", train_verb, "run one rank of a job: --spec FILE"},
    {"data-prepare", data_prepare_verb, "text files into Megatron's indexed token format"},
    {"import", import_verb, "a Hugging Face folder into a checkpoint"},
    {"export", export_verb, "a checkpoint into a Hugging Face folder"},
    {"score", score_verb, "log-probabilities of tokens under a checkpoint"},
    {"profile", profile_verb, "where the time of a training step goes"},
    {"calibrate", calibrate_verb, "measure this machine for predicting step times"},
};

int usage(const std::string& word) {
  say("dsv3-worker: unknown verb '{}'; verbs:\n", word);
  for (const Verb& verb : kVerbs) say("  {:<14} {}\n", verb.name, verb.summary);
  return static_cast<int>(Code::kInvalid);
}

// A verb without a word is `train`: dsv3-worker --spec FILE.
int dispatch(std::vector<std::string> words) {
  if (words.empty() || words[0].starts_with("-")) {
    if (!words.empty() && words[0] == "--version") {
      fmt::print("dsv3-worker {}\n", DSV3_VERSION);
      return 0;
    }
    return train_verb(words);
  }
  const std::string name = words[0];
  words.erase(words.begin());
  for (const Verb& verb : kVerbs) {
    if (name == verb.name) return verb.run(words);
  }
  return usage(name);
}

// Threads that spin for work stall the others when cores are shared (measured on two busy cores: 10
// times slower steps than sleeping ones), and libgomp reads its policy before main: so the program
// starts itself again, once, with the policy set.
void wait_passively(char** argv) {
  if (::getenv("OMP_WAIT_POLICY") != nullptr || ::getenv("GOMP_SPINCOUNT") != nullptr) return;
  ::setenv("OMP_WAIT_POLICY", "passive", 1);
  char program[4096] = {};
  const ssize_t length = ::readlink("/proc/self/exe", program, sizeof program - 1);
  // Keeps pid, descriptors and parent. On failure go on as we are.
  if (length > 0) ::execv(program, argv);
}

}  // namespace

int exit_code_of(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
    case Code::kFailed:
    case Code::kInvalid:
    case Code::kDevice:
    case Code::kPeerLost:
    case Code::kCollectiveTimeout:
    case Code::kOutOfMemory:
    case Code::kLossNotFinite:
    case Code::kCheckpointUnusable:
    case Code::kTemporary:
    case Code::kNeverRestart:
      return static_cast<int>(status.code());
    case Code::kNotFound:  // data or a file that the job names
    case Code::kDoesNotFit:
      return static_cast<int>(Code::kInvalid);
    default:
      return static_cast<int>(Code::kFailed);
  }
}

int run(int argc, char** argv) {
  wait_passively(argv);
  name_bus_errors("dsv3-worker", static_cast<int>(Code::kFailed));
  log::init("worker");
  try {
    return dispatch(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const Failure& failure) {
    log::error("{}", failure.what());
    return exit_code_of(Status(failure.code(), failure.what()));
  } catch (const std::bad_alloc&) {
    log::error("out of memory");
    return static_cast<int>(Code::kOutOfMemory);
  } catch (const std::exception& fault) {
    log::error("{}", fault.what());
    return static_cast<int>(Code::kFailed);
  }
}

}  // namespace dsv3::rank
