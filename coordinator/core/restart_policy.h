// What follows a failed attempt: again, or the job's end. A pure function of the frozen exit code
// and of how many attempts in a row brought the job no further.
//
// Law: the table below is the policy; nothing else decides. An attempt brings the job further when
// it writes a checkpoint of a later step than any before it. What a new attempt can mend is tried
// again without a person; three attempts in a row that bring it no further are the end. A job that
// the user cancelled is never restarted.
//
//   tried again: a rank or an agent killed by a signal (128 + n), 10 device, 11 peer or agent lost,
//                12 collective time-out, 75 temporary
//   not:         1 program error, 2 invalid, 13 out of memory, 14 loss not finite, 15 checkpoint
//                unusable, 93 never restart, and every other code
#pragma once

#include <cstdint>

namespace dsv3::core {

inline constexpr uint32_t kIdleAttemptsMax = 3;
inline constexpr int64_t kFirstBackoffNs = 1'000'000'000;

// True for the codes of the first row above.
bool is_retryable(int32_t code);

struct RestartDecision {
  bool restart = false;
  int64_t delay_ns = 0;  // before the next attempt
};

// `code`: why the attempt ended (never 0). `idle_attempts`: attempts in a row up to this one that
// brought the job no further; 0 when this one did. The first restart is at once, then after 1 s, 2
// s … Worked example: (137, 0) and (137, 1) → at once; (137, 2) → after 1 s; (137, 3) → no; (13, 0)
// → no.
RestartDecision decide_restart(int32_t code, uint32_t idle_attempts);

// True when `now` explains an attempt's failure better than `before` (0: nothing yet): the first
// failure stands, but a rank that only lost its peer (11), timed out waiting (12) or was stopped by
// us (143) gives way to one that failed by itself. One that somebody killed (137) is such a one.
bool is_better_cause(int32_t before, int32_t now);

}  // namespace dsv3::core
