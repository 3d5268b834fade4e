#!/bin/sh
# The code that is compiled for AVX-512 and the rest of the program never share a function: a symbol that the linker may
# merge (weak) and that carries no mark of its level would run AVX-512 on processors without it. Arguments: the archives.
for archive in "$@"; do
  merged=$(nm -C "$archive" 2>/dev/null | grep -E ' [WVu] ' | grep -vE 'avx512::|level_v4|rows_v4|DW\.ref\.')
  if [ -n "$merged" ]; then
    echo "$archive has symbols that other files may be linked to:"
    echo "$merged"
    exit 1
  fi
done
