// The schema of dsv3d.db as a list of migrations, applied in order; PRAGMA user_version is how many
// a file has had.
//
// Law: a migration that was released is never changed; a new one is added behind it. All tables are
// STRICT. The views (events, jobs, metrics, validations, expert_usage, memory, starts) are the
// public, stable part: plain SQL reads them.
#pragma once

#include <string>
#include <vector>

namespace dsv3::store {

// migrations()[i] brings a file from user_version i to i + 1.
const std::vector<std::string>& migrations();

}  // namespace dsv3::store
