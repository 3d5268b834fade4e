// The verbs of dsv3-worker: `train` (also without a word), and those that dsv3ctl runs as a child.
//
// Law: a verb takes the words after its name, prints data on stdout and the rest on stderr, and
// returns an exit code of DESIGN.md
// ("Exit codes of dsv3-worker"). New verbs that compute get a file of their own and a row in
// verbs.cpp.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace dsv3::rank {

// The whole program: finds the verb, runs it, turns whatever it throws into an exit code.
int run(int argc, char** argv);

int train_verb(const std::vector<std::string>& words);
int data_prepare_verb(const std::vector<std::string>& words);
int import_verb(const std::vector<std::string>& words);
int export_verb(const std::vector<std::string>& words);
int score_verb(const std::vector<std::string>& words);
int profile_verb(const std::vector<std::string>& words);
int calibrate_verb(const std::vector<std::string>& words);

// The frozen exit code for a Status: codes that are not a worker's become 2 (the request can't be
// served as it stands) or 1.
int exit_code_of(const Status& status);

}  // namespace dsv3::rank
