// State pieces: which parts of the model's logical tensors a rank's flat buffers hold, for saving
// and for loading.
//
// Laws: PURE. (1) What a rank saves is what it represents (parallel/ownership.h), so the pieces of
// all ranks make every tensor exactly once. (2) What it loads is all that it holds: the whole of
// its boxes of the weights (whose master may be there in pieces, and whose compute copy is not),
// and the moments of what it updates. (3) Both follow from the parameters' layout and the ownership
// alone, whatever layout wrote the checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "configs/spec/model_tensors.h"
#include "runtime/checkpoint/box.h"
#include "runtime/model/param_layout.h"
#include "runtime/parallel/ownership.h"
#include "runtime/tensor/tensor.h"

namespace dsv3::train {

// The elements [begin, end), row by row, of a box of one logical tensor, and where they lie: at
// `data`, or, of a weight to load, from flat element `weight` on (ParamStore::set()).
struct StateTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // of the whole tensor
  checkpoint::Box box;
  int64_t begin = 0;
  int64_t end = 0;
  void* data = nullptr;    // device; the session's; contiguous; null: `weight` says
  bool optimizer = false;  // a moment
  int64_t weight = -1;

  int64_t bytes() const { return (end - begin) * static_cast<int64_t>(dtype_bytes(dtype)); }
};

// A rank's state, as it lies there.
struct StateBuffers {
  const model::ParamLayout& params;
  const parallel::Ownership& ownership;
  const std::vector<parallel::Range>& master_ranges;  // contain ownership.represented
  tensor::Tensor master;                              // [elements of master_ranges] f32, end to end
  tensor::Tensor exp_avg, exp_avg_sq;  // [elements of ownership.updated], its ranges end to end
  // What every rank has whole: buffers of the model, in its order; rank 0 saves them.
  std::vector<spec::TensorInfo> buffer_infos;
  std::vector<void*> buffer_data;  // f32
};

// In the order of the layout's slices; of each slice the weight's pieces, then both moments'; the
// buffers last. `leads`: of rank 0.
std::vector<StateTensor> pieces_to_save(const StateBuffers& state, bool leads);
std::vector<StateTensor> pieces_to_load(const StateBuffers& state);

}  // namespace dsv3::train
