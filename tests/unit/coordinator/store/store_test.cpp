// The database: packing, views against an oracle in plain C++, migrations, the lock, and what a
// crash leaves.
#include <SQLiteCpp/SQLiteCpp.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>

#include "base/rng.h"
#include "coordinator/core/step.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/store/packing.h"
#include "coordinator/store/reader.h"
#include "coordinator/store/schema.h"
#include "coordinator/store/writer.h"

namespace dsv3::store {
namespace {

TEST(PackedCounts, RoundTripAtEveryWidth) {
  const std::vector<std::pair<uint64_t, size_t>> cases = {{0, 1},
                                                          {255, 1},
                                                          {256, 2},
                                                          {65'535, 2},
                                                          {65'536, 3},
                                                          {(1u << 24) - 1, 3},
                                                          {1u << 24, 4},
                                                          {0xFFFF'FFFFu, 4},
                                                          {uint64_t{1} << 32, 8},
                                                          {(uint64_t{1} << 40) + 7, 8},
                                                          {~uint64_t{0}, 8}};
  for (const auto& [largest, width] : cases) {
    const std::vector<uint64_t> counts = {0, largest, 1, largest / 3};
    const std::string blob = pack_counts(counts);
    EXPECT_EQ(static_cast<size_t>(blob[0]), width) << largest;
    EXPECT_EQ(blob.size(), 1 + 4 * width);
    const auto back = unpack_counts(blob);
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, counts);
  }
}

TEST(PackedCounts, AreTheBytesOfTheWorkedExample) {
  const std::vector<uint64_t> counts = {1, 300};
  EXPECT_EQ(pack_counts(counts), std::string("\x02\x01\x00\x2C\x01", 5));
}

TEST(PackedCounts, ThatAreNoneAreRefused) {
  for (const std::string& blob : {std::string(), std::string("\x05\x01", 2),
                                  std::string("\x02\x01\x00\x2C", 4), std::string("\0", 1)}) {
    EXPECT_EQ(unpack_counts(blob).status().code(), Code::kInvalid);
  }
}

TEST(Filesystem, OfTheNetworkIsKnownByItsNumber) {
  EXPECT_TRUE(is_network_filesystem(0x6969));       // NFS
  EXPECT_TRUE(is_network_filesystem(0x0BD00BD0));   // Lustre
  EXPECT_FALSE(is_network_filesystem(0xEF53));      // ext4
  EXPECT_FALSE(is_network_filesystem(0x794c7630));  // overlayfs
}

// A state directory of its own, and a job to write about.
class Store : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/dsv3-store-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Writer open() {
    Result<Writer> writer = Writer::open(dir_);
    EXPECT_TRUE(writer.ok()) << writer.status().to_string();
    return std::move(*writer);
  }
  Reader reader() {
    Result<Reader> opened = Reader::open(dir_);
    EXPECT_TRUE(opened.ok());
    return std::move(*opened);
  }
  // Two jobs in the state and in the database.
  void submit(Writer& writer) {
    Batch batch;
    for (int i = 0; i < 2; ++i) {
      core::Submission s;
      s.name = "demo";
      s.spec_yaml = "a: 1";
      s.plan_json = "{}";
      s.launcher = "local";
      s.nodes = {{"n1", {0}}};
      const core::Decision d = core::step(state_, times_, core::SubmitInput{s}, {1000, 1000}, {});
      batch.events.insert(batch.events.end(), d.events.begin(), d.events.end());
    }
    for (const auto& [id, job] : state_.jobs) batch.changed_jobs.push_back(&job);
    ASSERT_TRUE(writer.commit(batch).ok());
  }
  static wire::RankMessage step_message(int64_t step, double loss) {
    wire::RankMessage m;
    m.mutable_step()->set_step(step);
    m.mutable_step()->set_loss(loss);
    m.mutable_step()->set_step_s(0.5);
    m.mutable_step()->set_tokens(4096);
    return m;
  }
  static Status write(Writer& writer, uint32_t job, uint32_t attempt,
                      const wire::RankMessage& message) {
    Batch batch;
    batch.samples.push_back({job, attempt, 0, 77, &message});
    return writer.commit(batch);
  }
  int64_t number(const std::string& sql) {
    SQLite::Database db(database_path(dir_), SQLite::OPEN_READONLY);
    return db.execAndGet(sql).getInt64();
  }

  std::string dir_;
  core::State state_;
  core::Times times_;
};

TEST_F(Store, ReadsTheLogBackAsItWasWritten) {
  {
    Writer writer = open();
    submit(writer);
  }
  Writer writer = open();
  const auto log = writer.read_log();
  ASSERT_TRUE(log.ok()) << log.status().to_string();
  core::State replayed;
  for (const core::Event& event : *log) ASSERT_TRUE(core::apply(replayed, event).ok());
  EXPECT_EQ(replayed, state_);
}

TEST_F(Store, AGapInTheLogIsFound) {
  {
    Writer writer = open();
    submit(writer);
  }
  SQLite::Database(database_path(dir_), SQLite::OPEN_READWRITE)
      .exec("DELETE FROM event_rows WHERE seq = 2");
  EXPECT_EQ(open().read_log().status().code(), Code::kInvalid);
}

TEST_F(Store, ASecondWriterIsRefusedWithThePidOfTheFirst) {
  Writer first = open();
  const Result<Writer> second = Writer::open(dir_);
  EXPECT_EQ(second.status().code(), Code::kConflict);
  EXPECT_NE(second.status().message().find(std::to_string(::getpid())), std::string::npos)
      << second.status().message();
}

TEST_F(Store, TheLockOfAKilledWriterIsFree) {
  const pid_t child = ::fork();
  if (child == 0) {
    const Result<Writer> writer = Writer::open(dir_);
    ::_exit(writer.ok() ? 0 : 1);  // as kill -9: no destructor runs
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(Writer::open(dir_).ok());
}

TEST_F(Store, ANewerSchemaIsRefused) {
  { Writer writer = open(); }
  EXPECT_EQ(number("PRAGMA user_version"), static_cast<int64_t>(migrations().size()));
  SQLite::Database(database_path(dir_), SQLite::OPEN_READWRITE).exec("PRAGMA user_version = 99");
  const Result<Writer> writer = Writer::open(dir_);
  EXPECT_EQ(writer.status().code(), Code::kInvalid);
  EXPECT_NE(writer.status().message().find("99"), std::string::npos);
}

TEST_F(Store, OpeningTwiceKeepsWhatIsThere) {
  {
    Writer writer = open();
    submit(writer);
  }
  { Writer writer = open(); }
  EXPECT_EQ(number("SELECT count(*) FROM jobs"), 2);
}

TEST_F(Store, DoublesAreExactAndNanIsNull) {
  Writer writer = open();
  submit(writer);
  const CounterRng rng(3, name_key("doubles"));
  std::map<int64_t, double> expected;
  for (int64_t step = 1; step <= 200; ++step) {
    expected[step] =
        std::ldexp(rng.uniform(static_cast<uint64_t>(step)), static_cast<int>(step) - 100);
    ASSERT_TRUE(write(writer, 1, 1, step_message(step, expected[step])).ok());
  }
  ASSERT_TRUE(write(writer, 1, 1, step_message(201, std::nan(""))).ok());
  ASSERT_TRUE(write(writer, 1, 1, step_message(202, -INFINITY)).ok());
  Reader read = reader();
  wire::MetricsReply reply;
  ASSERT_TRUE(read.metrics(1, 0, 1000, &reply).ok());
  ASSERT_EQ(reply.metrics_size(), 202);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(reply.metrics(i).metrics().loss(), expected[i + 1]);
  EXPECT_TRUE(std::isnan(reply.metrics(200).metrics().loss()));
  EXPECT_EQ(reply.metrics(201).metrics().loss(), -INFINITY);
  EXPECT_EQ(number("SELECT count(*) FROM metrics WHERE loss IS NULL"), 1);
}

TEST_F(Store, AStepTrainedTwiceAppearsOnceWithItsLastAttempt) {
  Writer writer = open();
  submit(writer);
  for (int64_t step = 1; step <= 5; ++step)
    ASSERT_TRUE(write(writer, 1, 1, step_message(step, 10.0 + static_cast<double>(step))).ok());
  Reader read = reader();
  wire::JobStatus early;
  ASSERT_TRUE(read.fill_progress(1, 1'000'000'000, 11'000'000'000, &early).ok());
  EXPECT_EQ(early.step(), 5);
  EXPECT_EQ(early.lost_steps(), 0);
  EXPECT_DOUBLE_EQ(early.effective_time_ratio(), 0.25);
  wire::RankMessage start;
  start.mutable_start()->set_first_step(2);
  ASSERT_TRUE(write(writer, 1, 2, start).ok());
  wire::JobStatus again;
  ASSERT_TRUE(read.fill_progress(1, 1'000'000'000, 11'000'000'000, &again).ok());
  EXPECT_EQ(again.lost_steps(), 3) << "known before they are trained again";
  EXPECT_DOUBLE_EQ(again.effective_time_ratio(), 0.1);
  for (int64_t step = 3; step <= 4; ++step)
    ASSERT_TRUE(write(writer, 1, 2, step_message(step, 20.0 + static_cast<double>(step))).ok());
  wire::MetricsReply reply;
  ASSERT_TRUE(read.metrics(1, 0, 1000, &reply).ok());
  const std::vector<std::tuple<int64_t, uint32_t, double>> expected = {
      {1, 1, 11.0}, {2, 1, 12.0}, {3, 2, 23.0}, {4, 2, 24.0}, {5, 1, 15.0}};
  ASSERT_EQ(reply.metrics_size(), 5);
  for (int i = 0; i < 5; ++i) {
    const wire::MetricRow& row = reply.metrics(i);
    EXPECT_EQ(std::tuple(row.metrics().step(), row.attempt(), row.metrics().loss()),
              expected[static_cast<size_t>(i)]);
  }
  EXPECT_EQ(number("SELECT count(*) FROM metrics WHERE job = 'demo-1'"), 5);
  EXPECT_EQ(number("SELECT count(*) FROM metrics WHERE job = 'demo-2'"), 0);
  wire::JobStatus status;
  // Four useful steps of 0.5 s in 10 s; the fifth will be trained again.
  ASSERT_TRUE(read.fill_progress(1, 1'000'000'000, 11'000'000'000, &status).ok());
  EXPECT_EQ(status.step(), 4);
  EXPECT_EQ(status.lost_steps(), 3);
  EXPECT_DOUBLE_EQ(status.effective_time_ratio(), 0.2);
  wire::JobStatus nothing;
  ASSERT_TRUE(read.fill_progress(2, 0, 5, &nothing).ok());
  EXPECT_FALSE(nothing.has_step() || nothing.has_loss() || nothing.has_effective_time_ratio());
}

TEST_F(Store, MetricsComeInPagesWithTheirValidations) {
  Writer writer = open();
  submit(writer);
  for (int64_t step = 1; step <= 10; ++step)
    ASSERT_TRUE(write(writer, 1, 1, step_message(step, 1.0)).ok());
  wire::RankMessage validation;
  for (const int64_t step : {4, 8}) {
    validation.mutable_validation()->set_step(step);
    validation.mutable_validation()->set_loss(4.5);
    ASSERT_TRUE(write(writer, 1, 1, validation).ok());
  }
  Reader read = reader();
  wire::MetricsReply page;
  ASSERT_TRUE(read.metrics(1, 0, 6, &page).ok());
  EXPECT_TRUE(page.more());
  EXPECT_EQ(page.metrics_size(), 6);
  EXPECT_EQ(page.validations_size(), 1);
  wire::MetricsReply rest;
  ASSERT_TRUE(read.metrics(1, 6, 6, &rest).ok());
  EXPECT_FALSE(rest.more());
  EXPECT_EQ(rest.metrics_size(), 4);
  ASSERT_EQ(rest.validations_size(), 1);
  EXPECT_EQ(rest.validations(0).validation().step(), 8);
}

TEST_F(Store, FollowMovesItsCursors) {
  Writer writer = open();
  submit(writer);
  ASSERT_TRUE(write(writer, 1, 1, step_message(1, 1.0)).ok());
  Reader read = reader();
  wire::FollowReply first;
  ASSERT_TRUE(read.follow("demo-1", 1, 100, &first).ok());
  EXPECT_GT(first.events_size(), 0);
  EXPECT_EQ(first.metrics_size(), 1);
  wire::FollowReply second;
  second.set_event_seq(first.event_seq());
  second.set_metric_row(first.metric_row());
  ASSERT_TRUE(read.follow("demo-1", 1, 100, &second).ok());
  EXPECT_EQ(second.events_size() + second.metrics_size(), 0);
  ASSERT_TRUE(write(writer, 1, 1, step_message(2, 1.0)).ok());
  ASSERT_TRUE(read.follow("demo-1", 1, 100, &second).ok());
  EXPECT_EQ(second.metrics_size(), 1);
}

using Usage =
    std::map<std::tuple<int64_t, int64_t, int64_t>, uint64_t>;  // (step, layer, expert) → tokens

// Random counts of layers 1…3 with 8 experts and layer 5 with 4; attempt 2 trains step 2 again.
wire::RankMessage expert_message(int64_t step, uint64_t seed, uint64_t bound, Usage* expected) {
  const CounterRng rng(seed, name_key("experts"));
  wire::RankMessage m;
  m.mutable_experts()->set_step(step);
  uint64_t index = 0;
  for (const int layer : {5, 2, 1, 3}) {
    wire::LayerCounts* counts = m.mutable_experts()->add_layers();
    counts->set_layer(layer);
    for (int expert = 0; expert < (layer == 5 ? 4 : 8); ++expert) {
      const uint64_t tokens = rng.below(index++, bound);
      counts->add_tokens(tokens);
      (*expected)[{step, layer, expert}] = tokens;
    }
  }
  return m;
}

TEST_F(Store, ExpertUsageInPlainSqlIsWhatWasSent) {
  Writer writer = open();
  submit(writer);
  Usage expected;
  Usage replaced;
  ASSERT_TRUE(write(writer, 1, 1, expert_message(1, 10, 200, &expected)).ok());  // width 1
  ASSERT_TRUE(
      write(writer, 1, 1, expert_message(2, 11, 60'000, &replaced)).ok());  // lost to attempt 2
  ASSERT_TRUE(write(writer, 1, 2, expert_message(2, 12, 60'000, &expected)).ok());        // width 2
  ASSERT_TRUE(write(writer, 1, 2, expert_message(3, 13, 1u << 24, &expected)).ok());      // width 3
  ASSERT_TRUE(write(writer, 1, 2, expert_message(4, 14, 0xFFFF'FFFFu, &expected)).ok());  // width 4
  ASSERT_TRUE(
      write(writer, 1, 2, expert_message(5, 15, uint64_t{1} << 40, &expected)).ok());  // width 8
  SQLite::Database db(database_path(dir_), SQLite::OPEN_READONLY);
  SQLite::Statement rows(db, "SELECT step, layer, expert, tokens, attempt, job FROM expert_usage");
  Usage found;
  while (rows.executeStep()) {
    const int64_t step = rows.getColumn(0).getInt64();
    found[{step, rows.getColumn(1).getInt64(), rows.getColumn(2).getInt64()}] =
        static_cast<uint64_t>(rows.getColumn(3).getInt64());
    EXPECT_EQ(rows.getColumn(4).getInt(), step == 1 ? 1 : 2);
    EXPECT_EQ(rows.getColumn(5).getString(), "demo-1");
  }
  EXPECT_EQ(found, expected);
  Reader read = reader();
  wire::ExpertsReply reply;
  ASSERT_TRUE(read.experts(1, std::nullopt, &reply).ok());
  EXPECT_EQ(reply.counts().step(), 5);
  ASSERT_EQ(reply.counts().layers_size(), 4);
  EXPECT_EQ(reply.counts().layers(3).layer(), 5);
  EXPECT_EQ(reply.counts().layers(3).tokens(3), (expected[{5, 5, 3}]));
  wire::ExpertsReply none;
  EXPECT_EQ(read.experts(1, 99, &none).code(), Code::kNotFound);
}

TEST_F(Store, ExpertCountsTakeAtMostThreeBytesACell) {
  Writer writer = open();
  submit(writer);
  const auto pages = [&] { return number("PRAGMA page_count") * number("PRAGMA page_size"); };
  const auto flush = [&] {
    SQLite::Database(database_path(dir_), SQLite::OPEN_READWRITE)
        .exec("PRAGMA wal_checkpoint(TRUNCATE)");
  };
  flush();
  const int64_t before_bytes = pages();
  // The demo: 5 MoE layers of 8 experts, 4,096 tokens a step, each to 2 experts.
  const CounterRng rng(5, name_key("demo"));
  Batch batch;
  std::vector<wire::RankMessage> messages(1000);
  for (size_t i = 0; i < messages.size(); ++i) {
    messages[i].mutable_experts()->set_step(static_cast<int64_t>(i) + 1);
    for (int layer = 1; layer <= 5; ++layer) {
      wire::LayerCounts* counts = messages[i].mutable_experts()->add_layers();
      counts->set_layer(layer);
      for (uint64_t expert = 0; expert < 8; ++expert)
        counts->add_tokens(600 + rng.below(i * 40 + expert, 800));
    }
    batch.samples.push_back({1, 1, 0, 0, &messages[i]});
  }
  ASSERT_TRUE(writer.commit(batch).ok());
  flush();
  const double bytes_per_cell = static_cast<double>(pages() - before_bytes) / (1000.0 * 40.0);
  EXPECT_LE(bytes_per_cell, 3.0);
  EXPECT_GE(bytes_per_cell, 2.0);
}

TEST_F(Store, ReportsThatWereTakenAreRememberedWithTheirTransaction) {
  const ReportKey key{"demo-1", 1, "n1"};
  {
    Writer writer = open();
    submit(writer);
    EXPECT_EQ(*writer.last_report(key), 0u);
    Batch batch;
    const wire::RankMessage message = step_message(1, 1.0);
    batch.samples.push_back({1, 1, 0, 0, &message});
    batch.taken_reports.emplace_back(key, 42);
    ASSERT_TRUE(writer.commit(batch).ok());
    // An event that breaks the log's key fails the whole batch.
    Batch broken = batch;
    const wire::RankMessage second = step_message(2, 1.0);
    broken.samples[0].message = &second;
    broken.taken_reports[0].second = 43;
    core::Event event;
    event.type = core::EventType::kNote;
    event.seq = 1;
    broken.events.push_back(event);
    EXPECT_FALSE(writer.commit(broken).ok());
    EXPECT_EQ(*writer.last_report(key), 42u);
    EXPECT_EQ(number("SELECT count(*) FROM metrics"), 1);
    EXPECT_TRUE(write(writer, 1, 1, second).ok()) << "a failed batch leaves the writer usable";
  }
  EXPECT_EQ(*open().last_report(key), 42u);
}

TEST_F(Store, TheUsersSqlReads) {
  Writer writer = open();
  submit(writer);
  ASSERT_TRUE(write(writer, 1, 1, step_message(1, 2.5)).ok());
  Reader read = reader();
  wire::SqlReply reply;
  const Status status = read.query(
      "SELECT job, step, loss, NULL AS empty, x'00ff' AS b FROM metrics;", 10, 1000, &reply);
  ASSERT_TRUE(status.ok()) << status.to_string();
  ASSERT_EQ(reply.columns_size(), 5);
  ASSERT_EQ(reply.rows_size(), 1);
  EXPECT_EQ(reply.rows(0).cells(0).text(), "demo-1");
  EXPECT_EQ(reply.rows(0).cells(1).integer(), 1);
  EXPECT_EQ(reply.rows(0).cells(2).real(), 2.5);
  EXPECT_EQ(reply.rows(0).cells(3).value_case(), wire::SqlCell::VALUE_NOT_SET);
  EXPECT_EQ(reply.rows(0).cells(4).blob(), std::string("\0\xFF", 2));
  wire::SqlReply bytes;
  ASSERT_TRUE(read.query("SELECT CAST(x'ff' AS TEXT), 'ü€😀'", 1, 1000, &bytes).ok());
  EXPECT_EQ(bytes.rows(0).cells(0).blob(), "\xFF");
  EXPECT_EQ(bytes.rows(0).cells(1).text(), "ü€😀");
  wire::SqlReply cut;
  ASSERT_TRUE(read.query("SELECT seq FROM events", 1, 1000, &cut).ok());
  EXPECT_TRUE(cut.more());
  wire::SqlReply grouped;
  EXPECT_TRUE(read.query("WITH t AS (SELECT step FROM metrics) SELECT max(step), count(*) FROM t",
                         1, 1000, &grouped)
                  .ok());
  wire::SqlReply usage;
  EXPECT_TRUE(
      read.query("SELECT sum(tokens) FROM expert_usage WHERE step = 1", 1, 1000, &usage).ok());
}

TEST_F(Store, TheUsersSqlCannotWriteOrStay) {
  Writer writer = open();
  submit(writer);
  Reader read = reader();
  for (const char* sql :
       {"DELETE FROM event_rows", "DROP VIEW metrics",
        "INSERT INTO report_rows VALUES ('a',1,'b',2)", "PRAGMA journal_mode = DELETE",
        "ATTACH '/tmp/x.db' AS x", "SELECT 1; SELECT 2", "", "SELEKT 1",
        "SELECT nothing FROM metrics", "VACUUM"}) {
    wire::SqlReply reply;
    EXPECT_EQ(read.query(sql, 10, 1000, &reply).code(), Code::kInvalid) << sql;
  }
  wire::SqlReply large;  // 800 MB of text would be the end of the coordinator
  EXPECT_EQ(read.query("SELECT length(hex(zeroblob(400000000)))", 10, 1000, &large).code(),
            Code::kInvalid);
  wire::SqlReply written;
  EXPECT_EQ(read.query("DELETE FROM event_rows", 10, 1000, &written).message(),
            "SQL: only reading statements are allowed");
  wire::SqlReply endless;
  EXPECT_EQ(read.query("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
                       "max(i) FROM n",
                       10, 50, &endless)
                .code(),
            Code::kTimeout);
  wire::EventsReply events;
  ASSERT_TRUE(read.events("", 0, 1000, &events).ok());
  EXPECT_GT(events.events_size(), 0) << "the fences are gone after a query";
}

TEST_F(Store, MemoryLedgersAreTheLastThatTheNewestAttemptReported) {
  Writer writer = open();
  submit(writer);
  for (uint32_t attempt = 1; attempt <= 2; ++attempt) {
    for (uint32_t rank = 0; rank < 2; ++rank) {
      for (const auto& [names, bytes] : {std::pair{3, 1}, {2, 100}}) {  // after a step; at the end
        wire::RankMessage m;
        for (int i = 0; i < names; ++i)
          m.mutable_memory()->add_entries()->set_measured_bytes(bytes * attempt + rank);
        Batch batch;
        batch.samples.push_back({1, attempt, rank, 0, &m});
        ASSERT_TRUE(writer.commit(batch).ok());
      }
    }
  }
  wire::MemoryReply reply;
  ASSERT_TRUE(reader().memory(1, &reply).ok());
  EXPECT_EQ(reply.attempt(), 2u);
  ASSERT_EQ(reply.ranks_size(), 2);
  ASSERT_EQ(reply.ranks(1).ledger().entries_size(), 2);
  EXPECT_EQ(reply.ranks(1).ledger().entries(0).measured_bytes(), 201);
}

}  // namespace
}  // namespace dsv3::store
