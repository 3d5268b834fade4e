// See box.h.
#include "runtime/checkpoint/box.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>
#include <tuple>

#include "base/check.h"

namespace dsv3::checkpoint {
namespace {

std::string to_string(const Box& box) {
  return fmt::format("rows [{}, {}) of columns [{}, {})", box.row, box.row + box.rows, box.col,
                     box.col + box.cols);
}

bool within(const Box& box, const Box& whole) {
  return box.row >= 0 && box.rows >= 0 && box.rows <= whole.rows &&
         box.row <= whole.rows - box.rows && box.col >= 0 && box.cols >= 0 &&
         box.cols <= whole.cols && box.col <= whole.cols - box.cols;
}

// A line goes down over the rows; `open` holds the columns of the boxes that it crosses, which
// must not meet. The first two boxes that do; nullptr twice when none do.
std::pair<const Box*, const Box*> overlap(const std::vector<Box>& boxes) {
  struct Event {
    int64_t row;
    bool begins;  // ends come first: a box may begin where another ends
    const Box* box;
  };
  std::vector<Event> events;
  for (const Box& box : boxes) {
    events.push_back({box.row, true, &box});
    events.push_back({box.row + box.rows, false, &box});
  }
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return std::tuple(a.row, a.begins) < std::tuple(b.row, b.begins);
  });
  const auto by_column = [](const Box* a, const Box* b) { return a->col < b->col; };
  std::set<const Box*, decltype(by_column)> open(by_column);
  for (const Event& event : events) {
    if (!event.begins) {
      open.erase(event.box);
      continue;
    }
    const auto [at, inserted] = open.insert(event.box);
    if (!inserted) return {*at, event.box};
    if (at != open.begin()) {
      const Box* left = *std::prev(at);
      if (left->col + left->cols > event.box->col) return {left, event.box};
    }
    if (const auto right = std::next(at); right != open.end()) {
      if (event.box->col + event.box->cols > (*right)->col) return {event.box, *right};
    }
  }
  return {nullptr, nullptr};
}

}  // namespace

Box whole_box(const std::vector<int64_t>& shape) {
  Box box{0, 1, 0, 1};
  for (size_t i = 0; i + 1 < shape.size(); ++i) box.rows *= shape[i];
  if (!shape.empty()) box.cols = shape.back();
  return box;
}

Box common(const Box& a, const Box& b) {
  Box box;
  box.row = std::max(a.row, b.row);
  box.col = std::max(a.col, b.col);
  box.rows = std::max<int64_t>(std::min(a.row + a.rows, b.row + b.rows) - box.row, 0);
  box.cols = std::max<int64_t>(std::min(a.col + a.cols, b.col + b.cols) - box.col, 0);
  return box;
}

std::vector<Box> boxes_of(const Box& box, int64_t begin, int64_t end) {
  DSV3_CHECK(begin >= 0 && begin <= end && end <= box.num_elements());
  std::vector<Box> boxes;
  while (begin < end) {
    const int64_t row = begin / box.cols, col = begin % box.cols;
    const int64_t left = end - begin;
    Box next{box.row + row, 1, box.col + col, std::min(box.cols - col, left)};
    if (col == 0 && left >= box.cols) next.rows = left / box.cols;
    begin += next.num_elements();
    boxes.push_back(next);
  }
  return boxes;
}

std::string tiling_fault(const Box& whole, const std::vector<Box>& boxes) {
  if (boxes.empty()) return "no part of it is there";
  const int64_t elements = whole.num_elements();
  int64_t covered = 0;
  for (const Box& box : boxes) {
    if (!within(box, whole))
      return fmt::format("a part is outside its {} × {}", whole.rows, whole.cols);
    if (box.num_elements() == 0 && elements > 0) return to_string(box) + " are nothing";
    // No two that cover more than there is can be apart; stopping here keeps the sum small.
    covered += box.num_elements();
    if (covered > elements) return "its parts overlap";
  }
  if (elements == 0) return "";
  if (const auto [a, b] = overlap(boxes); a != nullptr)
    return fmt::format("{} overlap {}", to_string(*a), to_string(*b));
  if (covered != elements) return fmt::format("{} of {} elements", covered, elements);
  return "";
}

}  // namespace dsv3::checkpoint
