// The one inner product: a tile of some rows and some panels of columns held in registers.
#pragma once
#include <type_traits>

#include "vector.h"

namespace qkv {
namespace QKV_ISA {

constexpr int C = QKV_CHUNK;    // tokens of a chunk
constexpr int TALL = QKV_TALL;  // rows of a tile
constexpr int WIDE = 2;         // vectors of a panel
constexpr int P = WIDE * L;     // columns of a panel
static_assert(C % P == 0 && L % TALL == 0, "a chunk is whole tiles, and no tile crosses a vector of tokens");

// A matrix in panels: columns e of panel e / P lie in [rows, P] blocks, one block after the other.
QKV_INLINE int64_t in_panels(int64_t row, int64_t column, int64_t rows) {
  return (column / P * rows + row) * P + column % P;
}

// ROWS rows of PANELS panels.  `apart`: how far a row's places in two panels are from each other.
template <int ROWS, int PANELS>
struct Block {
  static constexpr int VECTORS = PANELS * WIDE;
  Floats at[ROWS][VECTORS];

  static QKV_INLINE int64_t place(int vector, int64_t apart) { return vector / WIDE * apart + vector % WIDE * L; }

  QKV_INLINE void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) at[i][j] = Floats{};
  }
  QKV_INLINE void read(const float* from, int row, int64_t apart = 0) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) at[i][j] = load(from + i * row + place(j, apart));
  }
  QKV_INLINE void write(float* to, int row, int64_t apart = 0) const {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) store(to + i * row + place(j, apart), at[i][j]);
  }
  QKV_INLINE void scale(float by) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) at[i][j] *= by;
  }
  QKV_INLINE void scale_columns(const float* by) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) at[i][j] *= load(by + j * L);
  }
  QKV_INLINE void scale_rows(const float* by) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) at[i][j] *= by[i];
  }

  // += a b, where a[row, k] = a[row * ROW + k * STEP] and b[k, :] begins at b + k * next; only the vectors
  // from FROM on.
  template <int ROW, int STEP, int FROM = 0>
  QKV_INLINE void add(const float* a, const float* b, int64_t next, int64_t depth, int64_t apart = 0) {
    for (int64_t k = 0; k < depth; ++k, a += STEP, b += next) {
      Floats right[VECTORS];
#pragma GCC unroll 16
      for (int j = FROM; j < VECTORS; ++j) right[j] = load(b + place(j, apart));
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        float left = a[i * ROW];
#pragma GCC unroll 16
        for (int j = FROM; j < VECTORS; ++j) at[i][j] += right[j] * left;
      }
    }
  }
};

using Tile = Block<TALL, 1>;

// Of a broader tile every number of a serves more columns, so fewer loads keep as many products busy; where
// registers are few it does not fit.
constexpr int PANELS = QKV_PANELS;
template <int N>
using Broad = Block<TALL / N, N>;

// `body(panels, column)` for all columns, PANELS panels at a time while there are so many.
template <typename F>
QKV_INLINE void by_panels(int64_t columns, F&& body) {
  int64_t e = 0;
  for (; e + PANELS * P <= columns; e += PANELS * P) body(std::integral_constant<int, PANELS>(), e);
  for (; e < columns; e += P) body(std::integral_constant<int, 1>(), e);
}

}  // namespace QKV_ISA
}  // namespace qkv
