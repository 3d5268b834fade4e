// The read-only connection behind Reader, private to this folder.
#pragma once

#include <optional>

#include "coordinator/store/database.h"
#include "coordinator/store/reader.h"

namespace dsv3::store {

struct Reader::Impl {
  std::optional<SQLite::Database> db;
};

}  // namespace dsv3::store
