// Which layouts the suite runs: a covering array.
//
// Law: every pair of choices that some layout has together, some chosen layout has: two axes cut,
// and each axis with each way of cutting experts, ZeRO stage, schedule, recomputation, micro-batch,
// overlap and query, and each two of these. Beyond pairs: every three axes, every size of an axis
// (2, 4, 8), every axis alone. Chosen greedily, few ranks before many, the same on every run.
#pragma once

#include <vector>

#include "tests/parity/job.h"

namespace dsv3::parity {

// Every case on 2, 4 or 8 ranks that check_layout() accepts, in a fixed order.
std::vector<Case> all_cases();
// The cases chosen from them, then some with a capacity or tied embeddings.
std::vector<Case> chosen_cases();

}  // namespace dsv3::parity
