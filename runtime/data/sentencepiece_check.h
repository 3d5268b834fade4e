// What a SentencePiece model must keep before the library sees it: the library follows the model's
// normalisation table without looking at its bounds.
//
// Law: a model that passes leads no look-up outside its own bytes. Nothing else is judged here; the
// library itself refuses what is no model.
#pragma once

#include <string>
#include <string_view>

namespace dsv3::data {

// What is wrong with the model file's bytes; "" when the library may have them.
std::string sentencepiece_fault(std::string_view model_bytes);

}  // namespace dsv3::data
