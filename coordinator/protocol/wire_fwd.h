// Forward declarations of the wire messages, for headers: the protobuf header itself stays in .cpp
// files.
#pragma once

namespace dsv3::wire {

class Envelope;
class Error;
class RankFrame;
class RankMessage;
class AgentFrame;
class StepMetrics;
class Validation;
class ExpertCounts;
class MemoryLedger;
class JobStatus;
class CoordinatorInfo;
class FollowReply;

}  // namespace dsv3::wire
