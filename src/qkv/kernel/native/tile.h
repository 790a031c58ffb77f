// The matrix product of the engine: a tile of rows and panels of columns that is held in registers.
#pragma once
#include <type_traits>

#include "vector.h"

namespace qkv {
namespace QKV_ISA {

constexpr int C = QKV_CHUNK;              // tokens of a chunk
constexpr int TILE_ROWS = QKV_TILE_ROWS;  // rows of a tile
constexpr int PANEL_VECTORS = 2;          // vectors of a panel
constexpr int P = PANEL_VECTORS * L;      // columns of a panel
static_assert(C % P == 0 && L % TILE_ROWS == 0, "a chunk is whole tiles, and no tile crosses a vector of tokens");

// The index of an element of a matrix in panels: one block [rows, P] after the other.
QKV_INLINE int64_t panel_index(int64_t row, int64_t column, int64_t rows) {
  return (column / P * rows + row) * P + column % P;
}

// ROWS rows of PANELS panels.  panel_stride: from an element of one panel in memory to the same element of the next.
template <int ROWS, int PANELS>
struct RegisterTile {
  static constexpr int VECTORS = PANELS * PANEL_VECTORS;
  Floats value[ROWS][VECTORS];

  static QKV_INLINE int64_t vector_offset(int vector, int64_t panel_stride) {
    return vector / PANEL_VECTORS * panel_stride + vector % PANEL_VECTORS * L;
  }

  QKV_INLINE void clear() {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) value[i][j] = Floats{};
  }
  QKV_INLINE void read(const float* source, int row_stride, int64_t panel_stride = 0) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) value[i][j] = load(source + i * row_stride + vector_offset(j, panel_stride));
  }
  QKV_INLINE void write(float* target, int row_stride, int64_t panel_stride = 0) const {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) store(target + i * row_stride + vector_offset(j, panel_stride), value[i][j]);
  }
  QKV_INLINE void scale(float factor) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) value[i][j] *= factor;
  }
  QKV_INLINE void scale_columns(const float* factors) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) value[i][j] *= load(factors + j * L);
  }
  QKV_INLINE void scale_rows(const float* factors) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int j = 0; j < VECTORS; ++j) value[i][j] *= factors[i];
  }

  // value [ROWS, VECTORS * L] += a [ROWS, depth] @ b [depth, VECTORS * L], with a[row, k] = a[row * A_ROW_STRIDE +
  // k * A_DEPTH_STRIDE] and b[k, :] from b + k * b_stride on.  Only the vectors from FIRST_VECTOR on are computed.
  template <int A_ROW_STRIDE, int A_DEPTH_STRIDE, int FIRST_VECTOR = 0>
  QKV_INLINE void add_product(const float* a, const float* b, int64_t b_stride, int64_t depth,
                              int64_t panel_stride = 0) {
    for (int64_t k = 0; k < depth; ++k, a += A_DEPTH_STRIDE, b += b_stride) {
      Floats right[VECTORS];
#pragma GCC unroll 16
      for (int j = FIRST_VECTOR; j < VECTORS; ++j) right[j] = load(b + vector_offset(j, panel_stride));
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        float left = a[i * A_ROW_STRIDE];
#pragma GCC unroll 16
        for (int j = FIRST_VECTOR; j < VECTORS; ++j) value[i][j] += right[j] * left;
      }
    }
  }
};

using Tile = RegisterTile<TILE_ROWS, 1>;

// In a wider tile each element of a serves more columns, so the same number of products needs fewer loads.  Where there
// are few registers it does not fit.
constexpr int PANELS = QKV_PANELS;
template <int N>
using WideTile = RegisterTile<TILE_ROWS / N, N>;

// Calls `body(panels, column)` for all columns, PANELS panels at a time while that many are left.
template <typename F>
QKV_INLINE void for_each_panel(int64_t columns, F&& body) {
  int64_t e = 0;
  for (; e + PANELS * P <= columns; e += PANELS * P) body(std::integral_constant<int, PANELS>(), e);
  for (; e < columns; e += P) body(std::integral_constant<int, 1>(), e);
}

}  // namespace QKV_ISA
}  // namespace qkv
