// STATES.md and transitions.cpp are the same tables, cell by cell; the dictionary is the same list.
#include "coordinator/core/transitions.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/text.h"

namespace dsv3::core {
namespace {

std::string strip(const std::string& text) {
  const size_t begin = text.find_first_not_of(' ');
  return begin == std::string::npos ? ""
                                    : text.substr(begin, text.find_last_not_of(' ') - begin + 1);
}

using Rows = std::vector<std::vector<std::string>>;

// The first table after the heading "## <title>…".
Rows table_under(const std::string& title) {
  const std::string text = *read_file(std::string(DSV3_SOURCE_DIR) + "/coordinator/core/STATES.md");
  Rows rows;
  bool inside = false;
  for (const std::string& line : split(text, '\n')) {
    if (line.starts_with("## ")) inside = line.starts_with("## " + title);
    if (inside && line.starts_with("|")) {
      std::vector<std::string> cells = split(line, '|');
      cells.erase(cells.begin());
      if (!cells.empty()) cells.pop_back();
      for (std::string& cell : cells) cell = strip(cell);
      rows.push_back(cells);
    } else if (inside && !rows.empty()) {
      break;
    }
  }
  return rows;
}

class Table : public testing::TestWithParam<std::pair<Machine, const char*>> {};

TEST_P(Table, OfTheDocumentIsTheTableOfTheCode) {
  const auto [machine, title] = GetParam();
  const Rows rows = table_under(title);
  ASSERT_GT(rows.size(), 2u);
  ASSERT_EQ(rows[0].size(), num_states(machine) + 2u);
  std::map<std::string, std::vector<std::string>> by_event;
  for (size_t i = 2; i < rows.size(); ++i) by_event[rows[i][0]] = rows[i];
  size_t listed = 0;
  for (const EventEntry& entry : event_dictionary()) {
    const auto row = by_event.find(std::string(entry.name));
    EXPECT_EQ(row != by_event.end(), concerns(machine, entry.type)) << entry.name;
    if (row == by_event.end()) continue;
    ++listed;
    for (uint8_t state = 0; state <= num_states(machine); ++state) {
      EXPECT_EQ(rows[0][state + 1u], state_name(machine, state));
      const auto next = next_state(machine, state, entry.type);
      EXPECT_EQ(row->second[state + 1u], next ? state_name(machine, *next) : "✗")
          << entry.name << " in " << rows[0][state + 1u];
    }
  }
  EXPECT_EQ(listed, by_event.size()) << "the document has an event that the code does not know";
}

INSTANTIATE_TEST_SUITE_P(States, Table,
                         testing::Values(std::pair{Machine::kJob, "Job"},
                                         std::pair{Machine::kAttempt, "Attempt"},
                                         std::pair{Machine::kAgent, "Agent"},
                                         std::pair{Machine::kRank, "Rank"},
                                         std::pair{Machine::kNode, "Node"}),
                         [](const auto& info) { return std::string(info.param.second); });

TEST(Transitions, TerminalStatesHaveNoWayOutButAResume) {
  for (const Transition& t : transitions(Machine::kJob)) {
    if (t.from == 0 || !protocol::is_terminal(static_cast<JobState>(t.from))) continue;
    EXPECT_EQ(t.event, EventType::kJobResumed) << event_name(t.event);
    EXPECT_NE(t.from, static_cast<uint8_t>(JobState::kCompleted));
  }
  for (const Transition& t : transitions(Machine::kAttempt))
    EXPECT_NE(t.from, static_cast<uint8_t>(AttemptState::kEnded));
}

TEST(Transitions, EveryCellIsListedOnce) {
  for (const Machine machine :
       {Machine::kJob, Machine::kAttempt, Machine::kAgent, Machine::kRank, Machine::kNode}) {
    std::map<std::pair<int, int>, int> seen;
    for (const Transition& t : transitions(machine))
      EXPECT_EQ(++seen[std::pair(int{t.from}, static_cast<int>(t.event))], 1);
  }
}

TEST(EventDictionary, IsTheDocumentsList) {
  const Rows rows = table_under("EVENTS");
  const auto dictionary = event_dictionary();
  ASSERT_EQ(rows.size(), dictionary.size() + 2);
  for (size_t i = 0; i < dictionary.size(); ++i) {
    const EventEntry& entry = dictionary[i];
    std::string fields;
    for (int bit = 0; bit <= 16; ++bit) {
      const auto field = static_cast<Field>(1u << bit);
      if ((entry.fields & field) == 0) continue;
      EXPECT_NE(rows[i + 2][2].find(std::string(field_name(field))), std::string::npos)
          << entry.name;
      fields += field_name(field);
    }
    const size_t listed = fields.empty() ? 0 : split(rows[i + 2][2], ',').size();
    EXPECT_EQ(listed, static_cast<size_t>(__builtin_popcount(entry.fields))) << entry.name;
    EXPECT_EQ(rows[i + 2][0], entry.name);
    EXPECT_EQ(rows[i + 2][1], std::to_string(static_cast<int>(entry.type)));
  }
}

}  // namespace
}  // namespace dsv3::core
