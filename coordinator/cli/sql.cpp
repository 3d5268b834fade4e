// dsv3ctl sql: a read-only SELECT over the coordinator's database.
#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "coordinator/cli/output.h"
#include "coordinator/cli/session.h"
#include "coordinator/cli/verbs.h"
#include "coordinator/protocol/dsv3.pb.h"

namespace dsv3::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string hex(const std::string& blob) {
  std::string text = "x'";
  for (const unsigned char byte : blob) text += fmt::format("{:02x}", byte);
  return text + "'";
}

Json cell_json(const wire::SqlCell& cell) {
  switch (cell.value_case()) {
    case wire::SqlCell::kInteger:
      return cell.integer();
    case wire::SqlCell::kReal:
      return cell.real();
    case wire::SqlCell::kText:
      return cell.text();
    case wire::SqlCell::kBlob:
      return hex(cell.blob());
    case wire::SqlCell::VALUE_NOT_SET:
      break;
  }
  return nullptr;
}

std::string cell_text(const wire::SqlCell& cell) {
  switch (cell.value_case()) {
    case wire::SqlCell::kInteger:
      return std::to_string(cell.integer());
    case wire::SqlCell::kReal:
      return exact_number(cell.real());
    case wire::SqlCell::kText:
      return cell.text();
    case wire::SqlCell::kBlob:
      return hex(cell.blob());
    case wire::SqlCell::VALUE_NOT_SET:
      break;
  }
  return "NULL";
}

int sql(const Globals& globals, const std::string& statement, int64_t limit) {
  auto client = connect(globals);
  if (!client.ok()) return fail(globals, client.status());
  wire::Envelope request, envelope;
  request.mutable_sql()->set_statement(statement);
  request.mutable_sql()->set_limit(static_cast<uint32_t>(limit));
  if (Status status = ask(*client, request, &envelope, 60'000); !status.ok())
    return fail(globals, status);
  const wire::SqlReply& reply = envelope.sql_reply();
  if (globals.json) {
    Json rows = Json::array();
    for (const wire::SqlRow& row : reply.rows()) {
      Json object = Json::object();
      for (int c = 0; c < row.cells_size(); ++c) object[reply.columns(c)] = cell_json(row.cells(c));
      rows.push_back(std::move(object));
    }
    print_json(
        {{"columns", std::vector<std::string>(reply.columns().begin(), reply.columns().end())},
         {"rows", rows},
         {"more", reply.more()}});
    return 0;
  }
  Table table({reply.columns().begin(), reply.columns().end()});
  for (const wire::SqlRow& row : reply.rows()) {
    std::vector<std::string> cells;
    for (const wire::SqlCell& cell : row.cells()) cells.push_back(cell_text(cell));
    table.add(std::move(cells));
  }
  print(table.render(globals.color));
  if (reply.more()) note("more rows follow: narrow the statement, or give --limit");
  return 0;
}

}  // namespace

Verb make_sql() {
  struct Options {
    std::string statement;
    int64_t limit = 0;
  };
  auto options = std::make_shared<Options>();
  Verb verb;
  verb.name = "sql";
  verb.group = "Look";
  verb.summary = "A read-only SELECT over metrics, expert_usage, events and jobs";
  verb.help =
      "Views: jobs, events, metrics, validations, starts, memory and expert_usage (job, attempt, "
      "step, layer, expert, tokens).\n"
      "Examples:\n"
      "  dsv3ctl sql \"SELECT step, loss FROM metrics WHERE job = 'demo-1'\"\n"
      "  dsv3ctl sql \"SELECT layer, sum(tokens) FROM expert_usage GROUP BY layer\"\n"
      "  dsv3ctl sql \"SELECT * FROM jobs\" --json\n"
      "Exit codes: 2 no SELECT, or it fails, 3 no coordinator.";
  verb.options = {
      {"STATEMENT", &options->statement, "One SELECT statement", true, Completes::kNothing, {}},
      {"--limit", &options->limit, "Rows at most", false, Completes::kNothing, {}, Range{1, 1e6}}};
  verb.run = [options](const Globals& globals) {
    return sql(globals, options->statement, options->limit);
  };
  return verb;
}

}  // namespace dsv3::cli
