// The table of GPUs; see gpu_rates.h.
//
// Peaks, memory and NVLink are NVIDIA's data sheets' (A100 2021, H100 and H200 2024, HGX B200 and
// GB200 2025, L40S 2023, RTX 4090 and 3090 architecture papers, V100 2020, T4 2019); H800 and H20
// as their export versions were announced (H800: NVLink 400 GB/s both ways, as in DeepSeek-V3's
// report). Network: a 400 Gb/s InfiniBand adapter for each GPU on SXM machines of Hopper and
// Blackwell, 200 Gb/s on A100's, and 100 Gb/s shared by the node's eight cards elsewhere.
// Prices are round figures from memory, of the order that clouds ask for one card; no list was
// copied, and they change: give your own with --price.
#include "cluster/plan/gpu_rates.h"

#include "configs/spec/gpu_table.h"

namespace dsv3::plan {
namespace {

constexpr double kInfiniBand400 = 50, kInfiniBand200 = 25, kShared100 = 100.0 / 8 / 8;
constexpr double kPcie3 = 13, kPcie4 = 25, kPcie5 = 50;  // what x16 gives of 16, 32 and 64

// Longer names before those they contain.
// clang-format off
constexpr GpuRates kRates[] = {
    // card       bf16   fp8  fp32  memory  peer    network        usd/h
    {"gb300",     2500, 5000,  80,   8000,  900,    kInfiniBand400, 0},
    {"gb200",     2500, 5000,  80,   8000,  900,    kInfiniBand400, 0},
    {"gh200",      989, 1979,  67,   4000,  450,    kInfiniBand400, 2.0},
    {"b300",      2250, 4500,  75,   8000,  900,    kInfiniBand400, 6.0},
    {"b200",      2250, 4500,  75,   8000,  900,    kInfiniBand400, 5.0},
    {"b100",      1750, 3500,  60,   8000,  900,    kInfiniBand400, 0},
    {"h200",       989, 1979,  67,   4800,  450,    kInfiniBand400, 3.5},
    {"h800",       989, 1979,  67,   3350,  200,    kInfiniBand400, 2.0},
    {"h100pcie",   756, 1513,  51,   2000,  kPcie5, kShared100,     2.4},
    {"h100nvl",    835, 1671,  60,   3900,  kPcie5, kShared100,     2.8},
    {"h100",       989, 1979,  67,   3350,  450,    kInfiniBand400, 3.0},
    {"h20",        148,  296,  44,   4000,  450,    kInfiniBand400, 0},
    {"a800",       312,    0, 19.5,  2039,  200,    kInfiniBand200, 1.5},
    {"a100pcie",   312,    0, 19.5,  1935,  kPcie4, kShared100,     1.6},
    {"a100 80gbpcie", 312, 0, 19.5,  1935,  kPcie4, kShared100,     1.6},
    {"a100sxm4 80", 312,   0, 19.5,  2039,  300,    kInfiniBand200, 1.8},
    {"a100 80",    312,    0, 19.5,  2039,  300,    kInfiniBand200, 1.8},
    {"a100",       312,    0, 19.5,  1555,  300,    kInfiniBand200, 1.4},
    {"a30",        165,    0, 10.3,   933,  kPcie4, kShared100,     0},
    {"a40",        150,    0, 37.4,   696,  kPcie4, kShared100,     0.5},
    {"6000ada",    364,  729, 91.1,   960,  kPcie4, kShared100,     0.8},
    {"a6000",      155,    0, 38.7,   768,  kPcie4, kShared100,     0.5},
    {"a5000",      111,    0, 27.8,   768,  kPcie4, kShared100,     0.3},
    {"a4000",       77,    0, 19.2,   448,  kPcie4, kShared100,     0.2},
    {"a10",        125,    0, 31.2,   600,  kPcie4, kShared100,     0.6},
    {"l40s",       362,  733, 91.6,   864,  kPcie4, kShared100,     0.9},
    {"l40",        181,  362, 90.5,   864,  kPcie4, kShared100,     0.8},
    {"l4",         121,  242, 30.3,   300,  kPcie4, kShared100,     0.5},
    {"rtx5090",    210,  419,  105,  1792,  kPcie5, kShared100,     0.7},
    {"rtx4090",    165,  330, 82.6,  1008,  kPcie4, kShared100,     0.4},
    {"rtx3090",     71,    0, 35.6,   936,  kPcie4, kShared100,     0.2},
    {"v100",       125,    0, 15.7,   900,  150,    kShared100,     0.5},
    {"t4",          65,    0,  8.1,   300,  kPcie3, kShared100,     0.3},
};
// clang-format on

}  // namespace

std::optional<GpuRates> gpu_rates(std::string_view name) {
  for (const GpuRates& rates : kRates) {
    if (spec::is_card(name, rates.card)) return rates;
  }
  return std::nullopt;
}

}  // namespace dsv3::plan
