// What follows a failed attempt: again, or the job's end. A pure function of the frozen exit code
// and the attempts made.
//
// Law: the table below is the policy; nothing else decides. Today only 75 ("temporary, retry") is
// tried again, at most three attempts in all, after 1 s, 2 s … A job that the user cancelled is
// never restarted.
#pragma once

#include <cstdint>

namespace dsv3::core {

inline constexpr uint32_t kAttemptsMax = 3;
inline constexpr int64_t kFirstBackoffNs = 1'000'000'000;

struct RestartDecision {
  bool restart = false;
  int64_t delay_ns = 0;  // before the next attempt
};

// `code`: why the attempt ended (never 0); `attempt`: its number, from 1.
// Worked example: (75, 1) → again after 1 s; (75, 2) → again after 2 s; (75, 3) → no; (13, 1) → no.
RestartDecision decide_restart(int32_t code, uint32_t attempt);

// True when `now` explains an attempt's failure better than `before` (0: nothing yet): the first
// failure stands, but a rank that only lost its peer (11), timed out waiting (12) or was stopped
// (137, 143) gives way to one that failed by itself.
bool is_better_cause(int32_t before, int32_t now);

}  // namespace dsv3::core
