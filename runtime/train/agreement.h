// Agreement: what the ranks of a data group must decide alike: which checkpoint they go on from,
// when they stop, when they save.
//
// Law: a request that reaches any rank is acted on by all of them at the same step; what one rank
// chooses the others take. With no data group each function gives back what it was given.
#pragma once

#include <string>

#include "base/status.h"
#include "runtime/train/session.h"

namespace dsv3::train {

struct Requests {
  bool stop = false;
  bool checkpoint = false;
};

// What any rank of the group was asked for. Every rank calls it, between the same two steps.
Requests agree_on_requests(Session& session, const Requests& own);

// Rank 0's text (a path), on every rank; the others' is ignored.
std::string share_text(Session& session, const std::string& text);

// The sum of the ranks' values.
double sum_over_ranks(Session& session, double value);

}  // namespace dsv3::train
