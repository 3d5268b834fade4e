// ReportBuffer: order, acknowledgement, resending.
#include "worker/agent/report_buffer.h"

#include <gtest/gtest.h>

#include <vector>

#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::agent {
namespace {

void push(ReportBuffer& buffer, uint32_t rank, size_t padding = 0) {
  wire::Report report;
  report.set_rank(rank);
  if (padding > 0) report.mutable_message()->mutable_note()->set_text(std::string(padding, 'x'));
  buffer.push(std::move(report));
}

std::vector<uint64_t> send(ReportBuffer& buffer, int64_t count_max = 100,
                           int64_t bytes_max = 1 << 20) {
  wire::AgentReports batch;
  buffer.mark_sent(buffer.fill(&batch, count_max, bytes_max));
  std::vector<uint64_t> seqs;
  for (const wire::Report& report : batch.reports()) seqs.push_back(report.seq());
  return seqs;
}

using Seqs = std::vector<uint64_t>;

TEST(ReportBuffer, NumbersFromOneAndSendsOnce) {
  ReportBuffer buffer;
  EXPECT_TRUE(buffer.empty());
  for (uint32_t i = 0; i < 3; ++i) push(buffer, i);
  EXPECT_EQ(send(buffer), (Seqs{1, 2, 3}));
  EXPECT_FALSE(buffer.has_unsent());
  EXPECT_FALSE(buffer.empty());
  push(buffer, 9);
  EXPECT_EQ(send(buffer), Seqs{4});
  EXPECT_EQ(buffer.next_seq(), 5u);
}

TEST(ReportBuffer, KeepsWhatIsNotAcknowledgedAndSendsItAgain) {
  ReportBuffer buffer;
  for (uint32_t i = 0; i < 5; ++i) push(buffer, i);
  EXPECT_EQ(send(buffer, 4), (Seqs{1, 2, 3, 4}));
  buffer.acknowledge(2);
  EXPECT_EQ(send(buffer), Seqs{5});
  buffer.resend_all();
  EXPECT_EQ(send(buffer), (Seqs{3, 4, 5}));
  buffer.acknowledge(1);   // an old one again
  buffer.acknowledge(99);  // a number never given: everything that is kept
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.kept_bytes(), 0);
  push(buffer, 1);
  EXPECT_EQ(send(buffer), Seqs{6});
}

TEST(ReportBuffer, AcknowledgementOfUnsentReportsCountsNothingTwice) {
  ReportBuffer buffer;
  for (uint32_t i = 0; i < 4; ++i) push(buffer, i);
  EXPECT_EQ(send(buffer, 1), Seqs{1});
  buffer.acknowledge(3);
  EXPECT_EQ(send(buffer), Seqs{4});
}

TEST(ReportBuffer, BatchesAreBoundedButNeverStuck) {
  ReportBuffer buffer;
  for (uint32_t i = 0; i < 3; ++i) push(buffer, i, 1000);
  EXPECT_EQ(send(buffer, 100, 2500), (Seqs{1, 2}));
  EXPECT_EQ(send(buffer, 100, 10), Seqs{3});  // larger than the bound, and alone
}

TEST(ReportBuffer, ReportThatCannotBeSentLosesItsBodyButNotItsNumber) {
  ReportBuffer buffer;
  for (uint32_t i = 0; i < 3; ++i) push(buffer, i, 1000);
  EXPECT_EQ(send(buffer, 1), Seqs{1});
  buffer.empty_first_unsent();
  EXPECT_LT(buffer.kept_bytes(), 2200);
  wire::AgentReports batch;
  EXPECT_EQ(buffer.fill(&batch, 100, 1 << 20), 2);
  EXPECT_EQ(batch.reports(0).seq(), 2u) << "a gap would never be taken";
  EXPECT_EQ(batch.reports(0).body_case(), wire::Report::BODY_NOT_SET);
  EXPECT_TRUE(batch.reports(1).has_message());
  buffer.mark_sent(2);
  buffer.acknowledge(3);
  EXPECT_EQ(buffer.kept_bytes(), 0);
}

}  // namespace
}  // namespace dsv3::agent
