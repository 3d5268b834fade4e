// `dsv3-worker score`: log-probabilities of tokens under a checkpoint's model.
//
// Law: the tokens are read here, everything else is scorer.h's; with --json one object on stdout
// with the fields of CLI.md.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "worker/rank/scorer.h"
#include "worker/rank/verb_io.h"
#include "worker/rank/verbs.h"

namespace dsv3::rank {
namespace {

constexpr size_t kRowsShown = 40;

// Between two numbers stands one comma at most, at the ends none.
Status check_gap(std::string_view gap, bool at_an_end, const std::string& where) {
  const auto commas = std::count(gap.begin(), gap.end(), ',');
  if (commas <= (at_an_end ? 0 : 1)) return {};
  return Status(Code::kInvalid, fmt::format("a number is missing beside a comma in {}", where),
                "give numbers with commas between, for example --tokens 1,2,3");
}

// "1, 2 3\n4" → 1 2 3 4. `where` names the place for messages.
Result<std::vector<int32_t>> parse_tokens(std::string_view text, const std::string& where) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<int32_t> tokens;
  size_t gap = 0;  // where the separators before the next number begin
  for (size_t at = 0; (at = text.find_first_not_of(kSeparators, at)) != std::string_view::npos;) {
    DSV3_RETURN_IF_ERROR(check_gap(text.substr(gap, at - gap), tokens.empty(), where));
    const size_t end = std::min(text.find_first_of(kSeparators, at), text.size());
    const std::string_view word = text.substr(at, end - at);
    int32_t token = 0;
    const auto [last, error] = std::from_chars(word.data(), word.data() + word.size(), token);
    if (error != std::errc{} || last != word.data() + word.size()) {
      return Status(Code::kInvalid,
                    fmt::format("'{}' in {} is not a token's number", word.substr(0, 40), where),
                    "give numbers with commas between, for example --tokens 1,2,3");
    }
    tokens.push_back(token);
    gap = at = end;
  }
  DSV3_RETURN_IF_ERROR(check_gap(text.substr(gap), true, where));
  return tokens;
}

Result<std::vector<int32_t>> read_tokens(const std::string& text, const std::string& file) {
  if (text.empty() == file.empty()) {
    return Status(
        Code::kInvalid,
        text.empty() ? "there are no tokens to score" : "--tokens and --tokens-file are both given",
        "give --tokens 1,2,3 or --tokens-file FILE");
  }
  if (file.empty()) return parse_tokens(text, "--tokens");
  DSV3_ASSIGN_OR_RETURN(const std::string bytes, read_file(file));
  return parse_tokens(bytes, "'" + file + "'");
}

void print_json(const ScoreOptions& options, const Score& score) {
  const nlohmann::ordered_json object{
      {"checkpoint", score.checkpoint},     {"step", score.step},
      {"tokens", options.tokens},           {"logprobs", score.logprobs},
      {"mean_logprob", score.mean_logprob}, {"perplexity", score.perplexity}};
  print_object(object);
}

void print_table(const ScoreOptions& options, const Score& score) {
  fmt::print("{:>8}  {:>8}  {:>10}\n", "POSITION", "TOKEN", "LOGPROB");
  const size_t shown = std::min(score.logprobs.size(), kRowsShown);
  for (size_t i = 0; i < shown; ++i) {
    fmt::print("{:>8}  {:>8}  {:>10.4f}\n", i + 2, options.tokens[i + 1], score.logprobs[i]);
  }
  if (shown < score.logprobs.size())
    fmt::print("… and {} more (--json prints them all)\n", score.logprobs.size() - shown);
  fmt::print("mean logprob {:.6f}, perplexity {:.4f} over {} tokens\n", score.mean_logprob,
             score.perplexity, score.logprobs.size());
}

}  // namespace

int score_verb(const std::vector<std::string>& arguments) {
  ScoreOptions options;
  std::string tokens, tokens_file;
  bool json = false;
  CLI::App app("Log-probabilities of tokens under a checkpoint's model, computed in fp32");
  app.name("dsv3ctl score");
  app.add_option("--checkpoint", options.checkpoint, "a checkpoint, or a folder of them")
      ->required();
  app.add_option("--tokens", tokens, "numbers with commas between");
  app.add_option("--tokens-file", tokens_file, "file of numbers");
  app.add_option("--logits", options.logits_path, "safetensors file to write all logits to");
  app.add_flag("--json", json, "print one JSON object");
  return run_verb(app, arguments, json, [&]() -> Status {
    DSV3_ASSIGN_OR_RETURN(options.tokens, read_tokens(tokens, tokens_file));
    DSV3_ASSIGN_OR_RETURN(const Score result, score(options));
    if (json) {
      print_json(options, result);
    } else {
      print_table(options, result);
    }
    return {};
  });
}

}  // namespace dsv3::rank
