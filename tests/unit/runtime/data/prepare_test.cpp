// Tokenizers, cutting into documents, `data prepare` from end to end, and the demo's text, on small
// inline inputs.
#include "runtime/data/prepare.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/file.h"
#include "runtime/data/demo_text.h"
#include "runtime/data/documents.h"
#include "runtime/data/indexed_dataset.h"
#include "runtime/data/tokenizer.h"
#include "tests/unit/runtime/temporary_folder.h"

namespace dsv3::data {
namespace {

// Text with some structure, so that a small vocabulary can be trained on it.
std::string sample_text(int paragraphs) {
  const char* words[] = {"router",    "expert", "token", "layer", "latent",
                         "attention", "the",    "of",    "and",   "über"};
  std::string text;
  uint32_t state = 1;
  for (int p = 0; p < paragraphs; ++p) {
    for (int w = 0; w < 40; ++w) {
      state = state * 1664525u + 1013904223u;
      text += words[state >> 16 & 7] + std::string(w % 13 == 12 ? "\n\t" : " ");
      if (w % 9 == 8) text += words[8 + (state >> 20 & 1)] + std::string("  ");
    }
    text += "\n\n";
  }
  return text;
}

std::vector<std::string> cut(const std::string& text, DocumentSplit split,
                             const std::string& separator = "", const std::string& path = "f.txt") {
  DocumentReader reader(text, path, split, separator);
  std::vector<std::string> documents;
  std::string_view document;
  while (reader.next(document)) documents.emplace_back(document);
  EXPECT_TRUE(reader.status().ok()) << reader.status().to_string();
  return documents;
}

TEST(Documents, AreCutAsAsked) {
  using Texts = std::vector<std::string>;
  const std::string text = "a b\nc\n\n \n d\r\n\n\ne";
  EXPECT_EQ(cut(text, DocumentSplit::kParagraphs), (Texts{"a b\nc", " d\r", "e"}));
  EXPECT_EQ(cut(text, DocumentSplit::kAuto), (Texts{"a b\nc", " d\r", "e"}));
  EXPECT_EQ(cut(text, DocumentSplit::kLines), (Texts{"a b", "c", " d\r", "e"}));
  EXPECT_EQ(cut(text, DocumentSplit::kFiles), (Texts{text}));
  EXPECT_EQ(cut("a<|>b\n<|><|>c", DocumentSplit::kSeparator, "<|>"), (Texts{"a", "b\n", "c"}));
  EXPECT_EQ(cut("{\"text\": \"a\\nb\"}\n\n{\"id\": 1, \"text\": \"\\u00fc\"}", DocumentSplit::kAuto,
                "", "f.jsonl"),
            (Texts{"a\nb", "ü"}));
  EXPECT_TRUE(cut("", DocumentSplit::kFiles).empty());
  EXPECT_TRUE(cut(" \n\t\n", DocumentSplit::kFiles).empty());
}

TEST(Documents, ABadJsonLineIsNamed) {
  for (const char* line : {"{", "[]", "{\"text\": 1}", "{\"txt\": \"a\"}"}) {
    const std::string text = std::string("{\"text\":\"a\"}\n") + line;
    DocumentReader reader(text, "f.jsonl", DocumentSplit::kAuto, "");
    std::string_view document;
    EXPECT_TRUE(reader.next(document));
    EXPECT_FALSE(reader.next(document));
    EXPECT_EQ(reader.status().where(), "f.jsonl:2") << line;
  }
}

// Parsed, a gigabyte of such a line would be a hundred in memory.
TEST(Documents, ALineOfMoreValuesThanADocumentHasIsRefusedUnparsed) {
  std::string line = R"({"text":"a","more":[0)";
  for (int i = 0; i < 1'000'000; ++i) line += ",0";
  line += "]}";
  DocumentReader reader(line, "f.jsonl", DocumentSplit::kJsonl, "");
  std::string_view document;
  EXPECT_FALSE(reader.next(document));
  EXPECT_EQ(reader.status().where(), "f.jsonl:1");
  EXPECT_NE(reader.status().message().find("1000000 values"), std::string::npos);
}

TEST(Documents, Utf8IsTheRfcs) {
  for (const char* good : {"", "a", "\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xF0\x90\x80\x80",
                           "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(valid_utf8(good)) << good;
  }
  for (const char* bad :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC2", "\xE2\x82", "\xE2\x82z"}) {
    EXPECT_FALSE(valid_utf8(bad));
  }
}

TEST(Tokenizer, SpecsAreRead) {
  EXPECT_EQ(parse_tokenizer_spec("byte")->kind, TokenizerSpec::Kind::kByte);
  const auto bpe = parse_tokenizer_spec("sentencepiece:bpe:8192").value();
  EXPECT_EQ(bpe.kind, TokenizerSpec::Kind::kSentencePieceTrain);
  EXPECT_EQ(bpe.algorithm, "bpe");
  EXPECT_EQ(bpe.vocab_size, 8192);
  EXPECT_EQ(parse_tokenizer_spec("sentencepiece:/a/b.model")->path, "/a/b.model");
  EXPECT_EQ(parse_tokenizer_spec("b.model")->path, "b.model");
  for (const char* bad : {"", "bytes", "sentencepiece:", "sentencepiece:bpe",
                          "sentencepiece:bpe:", "sentencepiece:bpe:8k", "sentencepiece:bpe:12",
                          "sentencepiece:bpe:99999999999999999999"}) {
    EXPECT_EQ(parse_tokenizer_spec(bad).status().code(), Code::kInvalid) << bad;
  }
}

void expect_round_trips(const Tokenizer& tokenizer) {
  for (const std::string text :
       {"", " ", "  leading and trailing  ", "line\nline\n\n\tindent\r\n",
        "tabs\t\tand   runs    of spaces", "über naïve", "日本語 🙂 unseen", "\n",
        "<unk> </s> <0x41>", "a\u00a0b", "0123456789", "\x01\x7f"}) {
    std::vector<int32_t> ids = {5};
    ASSERT_TRUE(tokenizer.encode(text, ids).ok());
    ASSERT_EQ(ids[0], 5) << "encode appends";
    ids.erase(ids.begin());
    for (const int32_t id : ids) {
      EXPECT_NE(id, tokenizer.eod()) << text;
      EXPECT_LT(id, tokenizer.vocab_size());
    }
    ids.push_back(tokenizer.eod());
    const auto decoded = tokenizer.decode(ids);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, text);
  }
  EXPECT_FALSE(
      tokenizer.decode(std::vector<int32_t>{static_cast<int32_t>(tokenizer.vocab_size())}).ok());
}

TEST(Tokenizer, BytesRoundTrip) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  expect_round_trips(*tokenizer);
}

Result<std::string> train(const std::string& algorithm, int64_t vocab_size) {
  const std::string text = sample_text(60);
  bool given = false;
  return train_sentencepiece({TokenizerSpec::Kind::kSentencePieceTrain, algorithm, vocab_size, ""},
                             [&](std::string_view& out) {
                               out = text;
                               return !std::exchange(given, true);
                             });
}

TEST(Tokenizer, TrainedModelsRoundTripAndAreDeterministic) {
  const auto model = train("bpe", 320);
  ASSERT_TRUE(model.ok()) << model.status().to_string();
  EXPECT_EQ(*model, *train("bpe", 320));
  const auto tokenizer = load_sentencepiece(*model);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->vocab_size(), 320);
  expect_round_trips(**tokenizer);
  std::vector<int32_t> ids;
  ASSERT_TRUE((*tokenizer)->encode("the attention of the expert", ids).ok());
  EXPECT_LE(ids.size(), 10u) << "words are pieces, not letters";
}

TEST(Tokenizer, LongTextsEncodeAsTheirLines) {
  const auto tokenizer = load_sentencepiece(train("bpe", 320).value()).value();
  std::string text;
  while (text.size() < (1u << 18) + 5000) text += "the router of the layer\n\n  and the expert";
  std::vector<int32_t> whole;
  ASSERT_TRUE(tokenizer->encode(text, whole).ok());
  EXPECT_EQ(tokenizer->decode(whole).value(), text);
}

TEST(Tokenizer, AVocabularyThatTheTextCannotFillIsAnError) {
  const auto model = train("bpe", 100000);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), Code::kInvalid);
  EXPECT_FALSE(load_sentencepiece("not a model").ok());
}

PrepareOptions options_for(const TemporaryFolder& folder, const std::string& tokenizer) {
  overwrite(folder / "in.txt", sample_text(30));
  PrepareOptions options;
  options.inputs = {folder / "in.txt"};
  options.tokenizer = tokenizer;
  options.prefix = folder / "sub/out";
  return options;
}

TEST(Prepare, WritesEveryDocumentAndWhatItSaysOfThem) {
  const TemporaryFolder folder;
  const PrepareOptions options = options_for(folder, "sentencepiece:bpe:300");
  const auto report = prepare(options);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_FALSE(report->up_to_date);
  const auto dataset = IndexedDataset::open(options.prefix);
  ASSERT_TRUE(dataset.ok()) << dataset.status().to_string();
  EXPECT_EQ(dataset->token_type(), TokenType::kU16);
  const auto expected = cut(sample_text(30), DocumentSplit::kParagraphs);
  ASSERT_EQ(dataset->num_documents(), static_cast<int64_t>(expected.size()));
  const auto tokenizer = open_dataset_tokenizer(options.prefix);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  std::map<int32_t, double> counts;
  for (int64_t d = 0; d < dataset->num_documents(); ++d) {
    std::vector<int32_t> ids(dataset->document_begin(d + 1) - dataset->document_begin(d));
    ASSERT_TRUE(dataset->read(dataset->document_begin(d), 300, ids).ok());
    EXPECT_EQ(ids.back(), (*tokenizer)->eod());
    EXPECT_EQ((*tokenizer)->decode(ids).value(), expected[d]);
    for (const int32_t id : ids) ++counts[id];
  }
  double entropy = 0;
  for (const auto& [id, count] : counts) {
    const double p = count / static_cast<double>(dataset->num_tokens());
    entropy -= p * std::log(p);
  }
  EXPECT_NEAR(report->info.unigram_entropy_nats, entropy, 1e-9);
  const auto info = read_dataset_info(options.prefix);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->num_tokens, dataset->num_tokens());
  EXPECT_EQ(info->vocab_size, 300);
  EXPECT_DOUBLE_EQ(info->unigram_entropy_nats, report->info.unigram_entropy_nats);
}

TEST(Prepare, DoesNothingWhenUpToDateAndEverythingWhenNot) {
  const TemporaryFolder folder;
  PrepareOptions options = options_for(folder, "byte");
  ASSERT_FALSE(prepare(options)->up_to_date);
  const std::string bin = read_file(options.prefix + ".bin").value();
  EXPECT_TRUE(prepare(options)->up_to_date);
  options.force = true;
  EXPECT_FALSE(prepare(options)->up_to_date);
  options.force = false;
  EXPECT_EQ(read_file(options.prefix + ".bin").value(), bin)
      << "the same input gives the same bytes";
  overwrite(options.prefix + ".bin", bin.substr(0, 100));
  EXPECT_FALSE(prepare(options)->up_to_date) << "a torn output is not up to date";
  overwrite(folder / "in.txt", sample_text(31));
  EXPECT_FALSE(prepare(options)->up_to_date);
  options.documents = DocumentSplit::kLines;
  EXPECT_FALSE(prepare(options)->up_to_date);
  EXPECT_TRUE(prepare(options)->up_to_date);
}

TEST(Prepare, ReusesAnExistingModel) {
  const TemporaryFolder folder;
  PrepareOptions options = options_for(folder, "sentencepiece:bpe:300");
  ASSERT_TRUE(prepare(options).ok());
  PrepareOptions again = options;
  again.prefix = folder / "again";
  again.tokenizer = options.prefix + ".tokenizer.model";
  const auto report = prepare(again);
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  EXPECT_EQ(read_file(again.prefix + ".bin").value(), read_file(options.prefix + ".bin").value());
}

TEST(Prepare, RefusesWhatItCannotDo) {
  const TemporaryFolder folder;
  const PrepareOptions good = options_for(folder, "byte");
  const auto code = [](const PrepareOptions& options) { return prepare(options).status().code(); };
  PrepareOptions options = good;
  options.inputs = {folder / "absent.txt"};
  EXPECT_EQ(code(options), Code::kNotFound);
  options.inputs = {};
  EXPECT_EQ(code(options), Code::kInvalid);
  options = good;
  options.prefix = folder.path() + "/";
  EXPECT_EQ(code(options), Code::kInvalid);
  options = good;
  options.documents = DocumentSplit::kSeparator;
  EXPECT_EQ(code(options), Code::kInvalid);
  options = good;
  overwrite(folder / "empty.txt", "\n\n");
  options.inputs = {folder / "empty.txt"};
  EXPECT_EQ(code(options), Code::kInvalid);
  EXPECT_FALSE(path_exists(good.prefix + ".idx"));
  EXPECT_EQ(parse_document_split("line").status().hint(), "did you mean 'lines'?");
}

TEST(Prepare, ReportsTextThatIsNotUtf8) {
  const TemporaryFolder folder;
  PrepareOptions options = options_for(folder, "sentencepiece:bpe:300");
  overwrite(folder / "in.txt", sample_text(30) + "bad \xff byte");
  EXPECT_EQ(prepare(options)->info.invalid_utf8_documents, 1);
  options.tokenizer = "byte";
  EXPECT_EQ(prepare(options)->info.invalid_utf8_documents, 0);
}

constexpr const char* kEntry =
    "Lark \\Lark\\ (l[aum]rk), n. [OE. larke, AS. l[=a]werce; akin\n"
    "   to D. leeuwerik.] (Zool.)\n"
    "   1. Any one of {Alauda} (family {Alaudid[ae]}).\n"
    "      [1913 Webster +PJC]\n"
    "\n"
    "   2. A frolic.   [Obs.] --Dickens.\n"
    "   [1913 Webster] Larker\n";

TEST(DemoText, EntriesLoseTheirTagsAndWrapping) {
  EXPECT_EQ(clean_entry(kEntry),
            "Lark \\Lark\\ (lark), n. [OE. larke, AS. lawerce; akin to D. leeuwerik.] (Zool.)\n"
            "1. Any one of Alauda (family Alaudidae).\n"
            "2. A frolic. [Obs.] --Dickens.\n");
  EXPECT_EQ(clean_entry("[1913 Webster]\n"), "");
  EXPECT_EQ(clean_entry("Oaf \\Oaf\\ [WordNet 1.5] x [unclosed"), "Oaf \\Oaf\\ x [unclosed\n");
  EXPECT_EQ(clean_entry("[AS. b[ae]l] [AS]"), "[AS. bael]\n");
}

// dictd's numbers for what a small index needs.
std::string base64_number(int64_t value) {
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text(1, digits[value % 64]);
  while ((value /= 64) > 0) text.insert(text.begin(), digits[value % 64]);
  return text;
}

TEST(DemoText, DictionariesBecomeShuffledDocuments) {
  const TemporaryFolder folder;
  std::string dict;
  std::string index = "00-database-info\tA\tB\n";
  for (int i = 0; i < 50; ++i) {
    const std::string entry =
        "word" + std::to_string(i) + " n.\n   Its meaning.\n   [1913 Webster]\n";
    const std::string where = "\t" + base64_number(static_cast<int64_t>(dict.size())) + "\t" +
                              base64_number(static_cast<int64_t>(entry.size())) + "\n";
    index += "word" + where + "also" + where;  // two headwords, one entry
    dict += entry;
  }
  gzFile file = gzopen((folder / "x.dict.dz").c_str(), "wb");
  gzwrite(file, dict.data(), static_cast<unsigned>(dict.size()));
  gzclose(file);
  overwrite(folder / "x.index", index);
  const auto path = ensure_demo_text(folder / "work", folder / "x.dict.dz", 10);
  ASSERT_TRUE(path.ok()) << path.status().to_string();
  const auto documents =
      cut(read_file(*path).value(), DocumentSplit::kSeparator, std::string(kDemoSeparator));
  ASSERT_EQ(documents.size(), 50u);
  EXPECT_NE(documents[0], "word0 n. Its meaning.\n")
      << "shuffled (one chance in 50 that this seed would not)";
  EXPECT_EQ(std::set<std::string>(documents.begin(), documents.end()).size(), 50u);
  EXPECT_TRUE(std::find(documents.begin(), documents.end(), "word7 n. Its meaning.\n") !=
              documents.end());
  EXPECT_EQ(ensure_demo_text(folder / "work", folder / "gone.dict.dz", 10).value(), *path)
      << "made once";
  EXPECT_EQ(ensure_demo_text(folder / "other", *path, 10).value(), *path)
      << "a ready text is taken as it is";
  overwrite(folder / "x.index", "word\t!!\tB\n");
  EXPECT_EQ(write_demo_text({{folder / "x.dict.dz", folder / "x.index"}, folder / "t", 1})
                .status()
                .code(),
            Code::kInvalid);
}

}  // namespace
}  // namespace dsv3::data
