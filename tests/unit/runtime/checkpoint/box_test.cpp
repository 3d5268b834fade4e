// Boxes against a grid of cells that is looked at one by one.
#include "runtime/checkpoint/box.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "base/rng.h"

namespace dsv3::checkpoint {
namespace {

// How often each cell of `whole` is covered; empty when a box reaches outside.
std::vector<int> coverage(const Box& whole, const std::vector<Box>& boxes) {
  std::vector<int> cells(static_cast<size_t>(whole.num_elements()));
  for (const Box& box : boxes) {
    for (int64_t r = box.row; r < box.row + box.rows; ++r) {
      for (int64_t c = box.col; c < box.col + box.cols; ++c) {
        if (r < 0 || c < 0 || r >= whole.rows || c >= whole.cols) return {};
        ++cells[static_cast<size_t>(r * whole.cols + c)];
      }
    }
  }
  return cells;
}

// Cuts a box again and again: the pieces tile it.
void cut(const Box& box, const CounterRng& rng, uint64_t* draw, std::vector<Box>* out) {
  const bool rows = rng.below((*draw)++, 2) == 0;
  const int64_t size = rows ? box.rows : box.cols;
  if (size < 2 || rng.below((*draw)++, 4) == 0) return out->push_back(box);
  const auto at = 1 + static_cast<int64_t>(rng.below((*draw)++, static_cast<uint64_t>(size - 1)));
  Box first = box, second = box;
  if (rows) {
    first.rows = at;
    second.row += at;
    second.rows -= at;
  } else {
    first.cols = at;
    second.col += at;
    second.cols -= at;
  }
  cut(first, rng, draw, out);
  cut(second, rng, draw, out);
}

TEST(Box, OfAShapeIsRowsOfItsLastDimension) {
  EXPECT_EQ(whole_box({2, 3, 4}), (Box{0, 6, 0, 4}));
  EXPECT_EQ(whole_box({5}), (Box{0, 1, 0, 5}));
  EXPECT_EQ(whole_box({}), (Box{0, 1, 0, 1}));
  EXPECT_EQ(whole_box({0, 5}), (Box{0, 0, 0, 5}));
}

TEST(Box, AContiguousPieceIsAtMostThreeBoxesInItsOrder) {
  for (const Box& box : {Box{2, 4, 3, 5}, Box{0, 1, 0, 7}, Box{1, 6, 2, 1}}) {
    const int64_t n = box.num_elements();
    for (int64_t begin = 0; begin <= n; ++begin) {
      for (int64_t end = begin; end <= n; ++end) {
        const std::vector<Box> boxes = boxes_of(box, begin, end);
        ASSERT_LE(boxes.size(), 3u);
        int64_t at = begin;  // of the box's elements, row by row
        for (const Box& part : boxes) {
          ASSERT_GT(part.num_elements(), 0);
          for (int64_t i = 0; i < part.num_elements(); ++i, ++at) {
            ASSERT_EQ(part.row + i / part.cols, box.row + at / box.cols);
            ASSERT_EQ(part.col + i % part.cols, box.col + at % box.cols);
          }
        }
        ASSERT_EQ(at, end);
      }
    }
  }
  EXPECT_EQ(boxes_of({0, 4, 0, 5}, 3, 17),
            (std::vector<Box>{{0, 1, 3, 2}, {1, 2, 0, 5}, {3, 1, 0, 2}}));
}

TEST(Box, TilingIsWhatEveryCellSays) {
  const CounterRng rng(3, 4);
  uint64_t draw = 0;
  int whole_ones = 0, faulty = 0;
  for (int round = 0; round < 3000; ++round) {
    const Box whole{0, 1 + static_cast<int64_t>(rng.below(draw++, 6)), 0,
                    1 + static_cast<int64_t>(rng.below(draw++, 6))};
    std::vector<Box> boxes;
    cut(whole, rng, &draw, &boxes);
    for (size_t i = boxes.size(); i > 1; --i) std::swap(boxes[i - 1], boxes[rng.below(draw++, i)]);
    Box& one = boxes[rng.below(draw++, boxes.size())];
    switch (rng.below(draw++, 6)) {
      case 0:
        one.row += static_cast<int64_t>(rng.below(draw++, 3)) - 1;
        break;
      case 1:
        one.cols += static_cast<int64_t>(rng.below(draw++, 3)) - 1;
        break;
      case 2:
        boxes.push_back(one);
        break;
      case 3:
        std::swap(one.row, one.col);
        break;
      default:
        break;
    }
    const std::vector<int> cells = coverage(whole, boxes);
    const bool exact = !cells.empty() &&
                       std::all_of(cells.begin(), cells.end(), [](int n) { return n == 1; }) &&
                       std::all_of(boxes.begin(), boxes.end(),
                                   [](const Box& box) { return box.num_elements() > 0; });
    ++(exact ? whole_ones : faulty);
    ASSERT_EQ(tiling_fault(whole, boxes).empty(), exact) << round;
  }
  EXPECT_GT(whole_ones, 500);
  EXPECT_GT(faulty, 500);
}

TEST(Box, WithoutElementsOneBoxMustBeThere) {
  EXPECT_EQ(tiling_fault({0, 0, 0, 5}, {{0, 0, 0, 5}}), "");
  EXPECT_NE(tiling_fault({0, 0, 0, 5}, {}), "");
  EXPECT_NE(tiling_fault({0, 0, 0, 5}, {{0, 1, 0, 5}}), "");
  EXPECT_NE(tiling_fault({0, 2, 0, 2}, {{0, 2, 0, 2}, {1, 0, 0, 2}}), "");
}

TEST(Box, HostileNumbersOverflowNothing) {
  const Box whole{0, int64_t{1} << 30, 0, int64_t{1} << 31};
  constexpr int64_t kMax = INT64_MAX;
  for (const Box& box : {Box{kMax, kMax, kMax, kMax}, Box{-1, 1, 0, 1}, Box{0, -1, 0, -1},
                         Box{1, 1 << 30, 0, 1}, Box{0, 1, kMax, 1}, Box{0, kMax, 0, 1}}) {
    EXPECT_NE(tiling_fault(whole, {box}), "");
  }
  EXPECT_NE(tiling_fault(whole, std::vector<Box>(100, whole)), "");
}

// The work is n·log n: with 200,000 strips pairs would be 20 billion.
TEST(Box, ManyStripsAreChecked) {
  constexpr int64_t kStrips = 200'000;
  const Box whole{0, 2, 0, kStrips};
  std::vector<Box> boxes;
  for (int64_t i = 0; i < kStrips; ++i) boxes.push_back({0, 2, kStrips - 1 - i, 1});
  EXPECT_EQ(tiling_fault(whole, boxes), "");
  boxes[1000].col += 1;
  EXPECT_NE(tiling_fault(whole, boxes), "");
}

}  // namespace
}  // namespace dsv3::checkpoint
