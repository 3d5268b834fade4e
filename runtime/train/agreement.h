// Agreement: what the ranks of a data group must decide alike: which checkpoint they go on from,
// when they stop, when they save.
//
// Law: a request that reaches any rank is acted on by all of them at the same step; what one rank
// chooses the others take. With no data group each function gives back what it was given.
#pragma once

#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/train/session.h"

namespace dsv3::train {

struct Requests {
  bool stop = false;
  bool checkpoint = false;
};

// What any rank of the group was asked for. Every rank calls it, between the same two steps.
Requests agree_on_requests(Session& session, const Requests& own);

// Waits until rank 0 has done what only it does (a checkpoint), with a deadline of its own: a disk
// may need longer than the others may be silent. A rank 0 that dies meanwhile is seen at once.
void wait_for_rank_0(Session& session, std::string_view what);

// Rank 0's text (a path), on every rank, as soon as rank 0 has it (waits as wait_for_rank_0());
// the others' is ignored.
std::string share_text(Session& session, const std::string& text);

// The sum of the ranks' values.
double sum_over_ranks(Session& session, double value);

}  // namespace dsv3::train
