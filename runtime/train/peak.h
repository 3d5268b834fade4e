// The peaks that a step is a share of: arithmetic (MFU's) and memory.
//
// Law: measured on this machine and in the dtype that is computed in, never read from a data sheet;
// the number is printed with every MFU (TrainStart::peak_flops_per_s).
#pragma once

#include "runtime/tensor/arena.h"

namespace dsv3::train {

// FLOP/s of the best of a few products [1024, 1024] · [1024, 1024] in `dtype`, after a warm-up; 2 ·
// 1024³ FLOPs each. Takes some tens of milliseconds and 16 MiB of `arena`'s stack, all released.
double measure_peak_flops_per_s(tensor::Arena& arena, DType dtype);

// Bytes per second, read plus written, of the best of a few copies of 64 MiB that no cache holds.
// Takes a quarter of a second and 128 MiB of `arena`'s stack, all released.
double measure_copy_bytes_per_s(tensor::Arena& arena);

}  // namespace dsv3::train
