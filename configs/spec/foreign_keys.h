// Words of other programs and guides that are no keys here: what to write instead.
#pragma once

#include <string_view>

namespace dsv3::spec {

// A sentence for an unknown key, by its whole path or its last word ("compile_model"); "" where
// there is nothing better to say than a guess at its spelling.
std::string_view instead_of(std::string_view path, std::string_view name);

}  // namespace dsv3::spec
