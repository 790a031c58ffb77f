// The one inner product: a tile of TALL rows and WIDE vectors of columns held in registers.
#pragma once
#include "vector.h"

namespace qkv {
namespace QKV_ISA {

constexpr int C = QKV_CHUNK;    // tokens of a chunk
constexpr int TALL = QKV_TALL;  // rows of a tile
constexpr int WIDE = 2;         // vectors of a tile
constexpr int P = WIDE * L;     // columns of a tile, and of a panel
static_assert(C % P == 0 && L % TALL == 0, "a chunk is whole tiles, and no tile crosses a vector of tokens");

// A matrix in panels: columns e of panel e / P lie in [rows, P] blocks, one block after the other.
QKV_INLINE int64_t in_panels(int64_t row, int64_t column, int64_t rows) {
  return (column / P * rows + row) * P + column % P;
}

struct Tile {
  Floats at[TALL][WIDE];

  QKV_INLINE void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) at[i][j] = Floats{};
  }
  QKV_INLINE void read(const float* from, int row) {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) at[i][j] = load(from + i * row + j * L);
  }
  QKV_INLINE void write(float* to, int row) const {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) store(to + i * row + j * L, at[i][j]);
  }
  QKV_INLINE void scale(float by) {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) at[i][j] *= by;
  }
  QKV_INLINE void scale_columns(const float* by) {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) at[i][j] *= load(by + j * L);
  }
  QKV_INLINE void scale_rows(const float* by) {
#pragma GCC unroll 16
    for (int i = 0; i < TALL; ++i)
      for (int j = 0; j < WIDE; ++j) at[i][j] *= by[i];
  }

  // += a b, where a[row, k] = a[row * ROW + k * STEP] and b[k, :] begins at b + k * next; only the vectors
  // from FROM on.
  template <int ROW, int STEP, int FROM = 0>
  QKV_INLINE void add(const float* a, const float* b, int64_t next, int64_t depth) {
    for (int64_t k = 0; k < depth; ++k, a += STEP, b += next) {
      Floats right[WIDE];
      for (int j = FROM; j < WIDE; ++j) right[j] = load(b + j * L);
#pragma GCC unroll 16
      for (int i = 0; i < TALL; ++i) {
        float left = a[i * ROW];
        for (int j = FROM; j < WIDE; ++j) at[i][j] += right[j] * left;
      }
    }
  }
};

}  // namespace QKV_ISA
}  // namespace qkv
