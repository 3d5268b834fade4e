// Box: a part of a tensor as rows × columns, what a rank holds under any layout.
//
// Law: a tensor is a matrix here: its last dimension is the columns, all others together the rows
// (a vector is one row, a number one by one). A contiguous piece of a box's row-major elements is
// at most three boxes: the rest of a row, whole rows, the beginning of a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dsv3::checkpoint {

// Rows [row, row + rows) and columns [col, col + cols).
struct Box {
  int64_t row = 0, rows = 0;
  int64_t col = 0, cols = 0;
  int64_t num_elements() const { return rows * cols; }
  bool operator==(const Box&) const = default;
};

// All of a tensor: [2, 3, 4] → 6 rows of 4 columns.
Box whole_box(const std::vector<int64_t>& shape);

// What two boxes have in common; no elements where they don't meet.
Box common(const Box& a, const Box& b);

// The elements [begin, end) of `box`, counted row by row, as boxes in that order; those without
// elements left out. Requires 0 ≤ begin ≤ end ≤ box.num_elements(). Box [4, 5], [3, 17): the last
// two of row 0, rows 1 and 2, the first two of row 3.
std::vector<Box> boxes_of(const Box& box, int64_t begin, int64_t end);

// Why these boxes, in any order, do not cover `whole` exactly once; "" when they do. Of a tensor
// without elements one box at least must be there, of others none may be empty. Time n·log n, and
// no number overflows whatever the boxes say. Requires that whole's elements are below 2^62.
std::string tiling_fault(const Box& whole, const std::vector<Box>& boxes);

}  // namespace dsv3::checkpoint
