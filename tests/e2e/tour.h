// The tour of README.md as data: its commands in order, each with what README says it prints; and
// what of an output may differ from one run to the next.
//
// Law: a ```console block of README is a promise. "$ COMMAND" is typed as it stands, the lines
// below it are its output, both streams; "..." stands for lines that README leaves out. Compared is
//   - exactly: what commands without a job print (recommend, plan, params, explain, validate, …);
//   - but for numbers: what a run prints. A number is N, a duration T, a size SIZE, blanks count
//     once, a verdict on experts is VERDICT, one step is "steps", bf16 or fp32 GEMM is TYPE GEMM, a
//     temporary folder is the reader's (kReaderHome);
//   - by the name of each check: what `doctor` says of a machine;
//   - not at all: the states that a job passes through before it runs, and all but the last of the
//     progress lines, which a terminal draws over each other.
#pragma once

#include <string>
#include <vector>

namespace dsv3::e2e {

struct TourCommand {
  int line = 0;  // of README.md, from 1
  std::string words;
  std::vector<std::string> output;
};

// Every command of the text's ```console blocks.
std::vector<TourCommand> read_tour(const std::string& readme);

// Where README's reader sits: their home and their copy of the repository.
inline constexpr const char* kReaderHome = "/root";
inline constexpr const char* kReaderCopy = "/root/dsv3ctl";

// The lines of an output as they are compared.
std::vector<std::string> normal_lines(const std::string& words,
                                      const std::vector<std::string>& lines);

// README with these outputs, one for each command of its tour, as a terminal shows them.
std::string with_outputs(const std::string& readme,
                         const std::vector<std::vector<std::string>>& outputs);

// "" when the output is what README shows, else the first difference in one sentence.
std::string tour_difference(const TourCommand& command, const std::vector<std::string>& printed);

}  // namespace dsv3::e2e
