// How the table's entries are written: AT(model.d_model).range(1, 65536).doc("…"). Only for
// fields_*.cpp and field_table.cpp.
#pragma once

#include <initializer_list>
#include <utility>

#include "configs/spec/field_table.h"

namespace dsv3::spec {

// An entry's optional parts, chained: AT(model.d_model).range(1, 65536).unit("…").
struct Entry {
  Field f;

  Entry range(double min, double max) && {
    f.min = min;
    f.max = max;
    return std::move(*this);
  }
  Entry above(double min, double max) && {
    f.exclusive_min = true;
    return std::move(*this).range(min, max);
  }
  Entry unit(std::string_view u) && {
    f.unit = u;
    return std::move(*this);
  }
  Entry choices(std::initializer_list<std::string_view> c) && {
    f.choices = c;
    return std::move(*this);
  }
  Entry bare(std::initializer_list<std::string_view> b) && {
    f.bare = b;
    return std::move(*this);
  }
  Entry also(std::initializer_list<Alias> a) && {
    f.aliases = a;
    return std::move(*this);
  }
  // Hugging Face's, Megatron's and DeepSpeed's names; "" where there is no counterpart.
  Entry names(std::string_view hf, std::string_view megatron, std::string_view deepspeed) && {
    f.hf_name = hf;
    f.megatron_name = megatron;
    f.deepspeed_name = deepspeed;
    return std::move(*this);
  }
  Entry hf(std::string_view value) && {
    f.hf_default = value;
    return std::move(*this);
  }
  Entry absent(std::string_view value) && {
    f.absent = value;
    return std::move(*this);
  }
  Entry required() && {
    f.required = true;
    return std::move(*this);
  }
  Entry nullable() && {
    f.null_is_default = true;
    return std::move(*this);
  }
  Entry kilo() && {
    f.kilo_suffix = true;
    return std::move(*this);
  }
  Entry doc(std::string_view d) && {
    f.doc = d;
    return std::move(*this);
  }
};

// The key is the member's own path, so that the two cannot differ.
#define AT(member)                                           \
  Entry {                                                    \
    Field {                                                  \
#member, [](JobSpec & s) -> Slot { return &s.member; } \
    }                                                        \
  }

// The two halves of the table, in canonical order.
void append_model_fields(std::vector<Field>& table);
void append_run_fields(std::vector<Field>& table);

}  // namespace dsv3::spec
