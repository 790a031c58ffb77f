// Memory: zeroed buffers, rows of tensors in and out, chunks turned so that tokens lie side by side.
#pragma once
#include <memory>
#include <new>

#include "call.h"
#include "tile.h"

namespace qkv {
namespace QKV_ISA {

QKV_INLINE int64_t up_to(int64_t n, int64_t whole) { return (n + whole - 1) / whole * whole; }

// Zeroed floats, aligned to a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t floats)
      : at_(static_cast<float*>(::operator new[](bytes(floats), std::align_val_t(64)))) {
    std::memset(at_.get(), 0, bytes(floats));
  }
  operator float*() const { return at_.get(); }

 private:
  struct Free {
    void operator()(float* at) const { ::operator delete[](at, std::align_val_t(64)); }
  };
  static size_t bytes(int64_t floats) { return size_t(up_to(floats + 1, 16)) * sizeof(float); }
  std::unique_ptr<float[], Free> at_;
};

QKV_INLINE const char* row_at(const Rows& rows, int64_t b, int64_t h, int64_t n, bool half) {
  int64_t offset = b * rows.batch + h * rows.head + n * rows.position;
  return static_cast<const char*>(rows.data) + offset * (half ? 2 : 4);
}

// Rows that are read next, fetched into the cache a few at a time while other work goes on.  A fetch beyond the
// end of a tensor does nothing.
struct Ahead {
  uintptr_t row = 0;
  int64_t step = 0, bytes = 0, left = 0;

  QKV_INLINE void aim(const Rows& rows, int64_t b, int64_t h, int64_t first, int64_t width, bool half) {
    row = reinterpret_cast<uintptr_t>(row_at(rows, b, h, first, half));
    step = rows.position * (half ? 2 : 4), bytes = width * (half ? 2 : 4), left = C;
  }
  template <int WRITE = 0>
  QKV_INLINE void fetch(int64_t many) {
    for (; many > 0 && left > 0; --many, --left, row += uintptr_t(step))
      for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(row + uintptr_t(i)), WRITE);
  }
};

// Rows are short: a call of memcpy for each would take longer than its vectors.
QKV_INLINE void copy_row(const float* from, float* to, int64_t width) {
  int64_t i = 0;
  for (; i + L <= width; i += L) store(to + i, load(from + i));
  for (; i < width; ++i) to[i] = from[i];
}

QKV_INLINE void read_row(const char* from, bool half, float* to, int64_t width) {
  if (!half) return copy_row(reinterpret_cast<const float*>(from), to, width);
  const uint16_t* narrow = reinterpret_cast<const uint16_t*>(from);
  for (int64_t i = 0; i < width; ++i) to[i] = from_half(narrow[i]);
}

QKV_INLINE void write_row(const float* from, bool half, const char* at, int64_t width) {
  char* to = const_cast<char*>(at);
  if (!half) return copy_row(from, reinterpret_cast<float*>(to), width);
  uint16_t* narrow = reinterpret_cast<uint16_t*>(to);
  for (int64_t i = 0; i < width; ++i) narrow[i] = to_half(from[i]);
}

// C rows of so many columns, `row` apart -> [columns, C].
inline void turn(const float* x, int64_t row, int64_t columns, float* turned) {
  for (int64_t t = 0; t < C; t += L)
    for (int64_t d = 0; d < columns; d += L) {
      Floats block[L];
      for (int i = 0; i < L; ++i) block[i] = load(x + (t + i) * row + d);
      transpose(block);
      for (int i = 0; i < L; ++i) store(turned + (d + i) * C + t, block[i]);
    }
}

// [columns, C] -> [C, columns].
inline void turn_back(const float* turned, int64_t columns, float* x) {
  for (int64_t d = 0; d < columns; d += L)
    for (int64_t t = 0; t < C; t += L) {
      Floats block[L];
      for (int i = 0; i < L; ++i) block[i] = load(turned + (d + i) * C + t);
      transpose(block);
      for (int i = 0; i < L; ++i) store(x + (t + i) * columns + d, block[i]);
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
