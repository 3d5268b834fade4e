// Databases of older releases. schema_1.sql is one as release 0.1 left it (`.dump` of sqlite3): job
// old-1, steps 1 to 3, the third trained again by attempt 2, a step without a finite gradient norm.
//
// Law: a released migration is never changed; an older file is brought up to date when it is
// opened, keeps every row, and what it can't know is NULL.
#include "coordinator/store/schema.h"

#include <SQLiteCpp/SQLiteCpp.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "base/file.h"
#include "coordinator/protocol/dsv3.pb.h"
#include "coordinator/store/reader.h"
#include "coordinator/store/writer.h"

namespace dsv3::store {
namespace {

// The text of every table, index and view, by name.
std::map<std::string, std::string> schema_of(const std::string& path) {
  SQLite::Database db(path, SQLite::OPEN_READONLY);
  SQLite::Statement rows(db, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL");
  std::map<std::string, std::string> schema;
  while (rows.executeStep()) schema[rows.getColumn(0).getString()] = rows.getColumn(1).getString();
  return schema;
}

class OldStore : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/dsv3-schema-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    dir_ = name;
    const std::string file = DSV3_SOURCE_DIR "/tests/unit/coordinator/store/schema_1.sql";
    const Result<std::string> dump = read_file(file);
    ASSERT_TRUE(dump.ok()) << dump.status().to_string();
    SQLite::Database(database_path(dir_), SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec(*dump);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  Writer open() {
    Result<Writer> writer = Writer::open(dir_);
    EXPECT_TRUE(writer.ok()) << writer.status().to_string();
    return std::move(*writer);
  }
  Reader reader() {
    Result<Reader> opened = Reader::open(dir_);
    EXPECT_TRUE(opened.ok()) << opened.status().to_string();
    return std::move(*opened);
  }
  wire::MetricsReply metrics() {
    wire::MetricsReply reply;
    EXPECT_TRUE(reader().metrics(1, 0, 100, &reply).ok());
    return reply;
  }

  std::string dir_;
};

TEST_F(OldStore, IsWhatTheFirstMigrationStillMakes) {
  const std::string fresh = dir_ + "/fresh.db";
  SQLite::Database(fresh, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE).exec(migrations()[0]);
  EXPECT_EQ(schema_of(fresh), schema_of(database_path(dir_)));
}

TEST_F(OldStore, BecomesWhatAFreshOneIs) {
  { const Writer writer = open(); }
  const std::string other = dir_ + "/other";
  { ASSERT_TRUE(Writer::open(other).ok()); }
  EXPECT_EQ(schema_of(database_path(dir_)), schema_of(database_path(other)));
  SQLite::Database db(database_path(dir_), SQLite::OPEN_READONLY);
  EXPECT_EQ(db.execAndGet("PRAGMA user_version").getInt(), static_cast<int>(migrations().size()));
  EXPECT_EQ(db.execAndGet("PRAGMA integrity_check").getString(), "ok");
}

TEST_F(OldStore, KeepsEveryRowAndKnowsNothingOfWhatWasDropped) {
  Writer writer = open();
  const auto log = writer.read_log();
  ASSERT_TRUE(log.ok()) << log.status().to_string();
  EXPECT_EQ(log->size(), 3u);
  const wire::MetricsReply reply = metrics();
  ASSERT_EQ(reply.metrics_size(), 3);
  const double losses[] = {5.5, 0.1 + 0.2, 4.25};
  for (int i = 0; i < 3; ++i) {
    const wire::MetricRow& row = reply.metrics(i);
    EXPECT_EQ(row.metrics().loss(), losses[i]);
    EXPECT_EQ(row.attempt(), i == 2 ? 2u : 1u);
    EXPECT_EQ(row.metrics().memory_bytes(), 1 << 20);
    EXPECT_FALSE(row.metrics().has_dropped());
  }
  EXPECT_TRUE(std::isnan(reply.metrics(1).metrics().grad_norm()));
  EXPECT_EQ(reply.validations_size(), 1);
  wire::ExpertsReply experts;
  ASSERT_TRUE(reader().experts(1, 2, &experts).ok());
  EXPECT_EQ(experts.counts().layers(0).tokens(0), 60u);
  EXPECT_FALSE(experts.has_dropped());
  SQLite::Database db(database_path(dir_), SQLite::OPEN_READONLY);
  EXPECT_EQ(db.execAndGet("SELECT count(*) FROM metrics WHERE dropped IS NULL").getInt(), 3);
}

TEST_F(OldStore, TakesWhatIsDroppedFromNowOn) {
  Writer writer = open();
  const auto put = [&](uint32_t attempt, const wire::RankMessage& message) {
    Batch batch;
    batch.samples.push_back({1, attempt, 0, 78, &message});
    ASSERT_TRUE(writer.commit(batch).ok());
  };
  // An older rank's step takes nothing over from its neighbours; the sixth is trained again.
  struct Step {
    uint32_t attempt;
    int64_t step, dropped;
  };
  for (const Step& done : {Step{2, 4, 37}, {2, 5, -1}, {2, 6, 99}, {3, 6, 0}}) {
    wire::RankMessage message;
    message.mutable_step()->set_step(done.step);
    if (done.dropped >= 0) message.mutable_step()->set_dropped(done.dropped);
    put(done.attempt, message);
    wire::RankMessage counts;
    counts.mutable_experts()->set_step(done.step);
    counts.mutable_experts()->add_layers()->add_tokens(100);
    put(done.attempt, counts);
  }
  const wire::MetricsReply reply = metrics();
  ASSERT_EQ(reply.metrics_size(), 6);
  EXPECT_EQ(reply.metrics(3).metrics().dropped(), 37);
  EXPECT_FALSE(reply.metrics(4).metrics().has_dropped());
  EXPECT_TRUE(reply.metrics(5).metrics().has_dropped());
  EXPECT_EQ(reply.metrics(5).metrics().dropped(), 0);
  Reader reader = this->reader();
  wire::ExpertsReply fourth, newest;
  ASSERT_TRUE(reader.experts(1, 4, &fourth).ok());
  EXPECT_EQ(fourth.dropped(), 37);
  ASSERT_TRUE(reader.experts(1, std::nullopt, &newest).ok());
  EXPECT_TRUE(newest.has_dropped());
  EXPECT_EQ(newest.dropped(), 0);
  wire::FollowReply follow;
  ASSERT_TRUE(reader.follow("old-1", 1, 100, &follow).ok());
  ASSERT_EQ(follow.metrics_size(), 8) << "also what was trained again";
  EXPECT_EQ(follow.metrics(4).metrics().dropped(), 37);
}

}  // namespace
}  // namespace dsv3::store
