// A micro-batch's memory and its inputs; see micro_batch.h.
#include "runtime/model/micro_batch.h"

#include <algorithm>

namespace dsv3::model {

MicroBatch::MicroBatch(int64_t layers, int64_t mtp_layers) {
  const auto n = static_cast<size_t>(layers), depths = static_cast<size_t>(mtp_layers);
  inputs.mtp_ids.resize(depths);
  inputs.mtp_labels.resize(depths);
  hidden.resize(n + 1);
  stashes.resize(n);
  marks.resize(n);
  mtp.resize(depths);
  dnormed.resize(depths + 1);
  grads.resize(n);
}

// On the device: ids, labels, then ids and labels of each MTP depth.
void upload(const Pass& pass, std::span<const int32_t> tokens, std::span<const int64_t> positions,
            MicroBatch* batch) {
  const int64_t s = pass.sequence, total = pass.gathered_tokens();
  const auto depths = static_cast<int64_t>(batch->inputs.mtp_ids.size());
  DSV3_CHECK(static_cast<int64_t>(tokens.size()) == pass.sequences * (s + 1),
             "whole samples of sequence + 1 tokens");
  batch->host.resize(static_cast<size_t>(2 * (1 + depths) * total));
  for (int64_t depth = 0; depth <= depths; ++depth) {
    int32_t* ids = batch->host.data() + 2 * depth * total;
    int32_t* labels = ids + total;
    for (int64_t sequence = 0; sequence < pass.sequences; ++sequence) {
      const int32_t* sample = tokens.data() + sequence * (s + 1);
      for (const int64_t position : positions) {
        const int64_t at = position + depth;
        *ids++ = at <= s ? std::max(sample[at], 0) : 0;
        *labels++ = at + 1 <= s ? sample[at + 1] : -1;
      }
    }
  }
  const tensor::Tensor device_ids =
      pass.push_i32("activations/inputs", {static_cast<int64_t>(batch->host.size())});
  pass.ctx.backend->copy_to_device(device_ids.data, batch->host.data(),
                                   batch->host.size() * sizeof(int32_t), pass.ctx.stream);
  const int32_t* base = device_ids.as<int32_t>();
  batch->inputs.ids = {base, total};
  batch->inputs.labels = {base + total, total};
  for (int64_t depth = 1; depth <= depths; ++depth) {
    const auto i = static_cast<size_t>(depth - 1);
    batch->inputs.mtp_ids[i] = {base + 2 * depth * total, total};
    batch->inputs.mtp_labels[i] = {base + (2 * depth + 1) * total, total};
  }
}

}  // namespace dsv3::model
