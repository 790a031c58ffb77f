// Memory access: zeroed buffers, prefetching, rows of tensors, and the transposition of chunks.
#pragma once
#include <memory>
#include <new>

#include "call.h"
#include "tile.h"

namespace qkv {
namespace QKV_ISA {

QKV_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Zeroed floats, aligned to a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<float*>(::operator new[](byte_count(size), std::align_val_t(64)))) {
    std::memset(data_.get(), 0, byte_count(size));
  }
  operator float*() const { return data_.get(); }

 private:
  struct AlignedDelete {
    void operator()(float* data) const { ::operator delete[](data, std::align_val_t(64)); }
  };
  static size_t byte_count(int64_t size) { return size_t(round_up(size + 1, 16)) * sizeof(float); }
  std::unique_ptr<float[], AlignedDelete> data_;
};

QKV_INLINE const char* row_address(const StridedTensor& x, int64_t b, int64_t h, int64_t n, bool is_bfloat16) {
  int64_t offset = b * x.batch_stride + h * x.head_stride + n * x.position_stride;
  return static_cast<const char*>(x.data) + offset * (is_bfloat16 ? 2 : 4);
}

// Fetches the C rows that are read next into the cache, a few at a time while other work goes on.  A fetch beyond the
// end of a tensor does nothing.
struct Prefetcher {
  uintptr_t address = 0;
  int64_t stride = 0, bytes = 0, remaining = 0;

  QKV_INLINE void start_at(const StridedTensor& x, int64_t b, int64_t h, int64_t first, int64_t width,
                           bool is_bfloat16) {
    address = reinterpret_cast<uintptr_t>(row_address(x, b, h, first, is_bfloat16));
    stride = x.position_stride * (is_bfloat16 ? 2 : 4), bytes = width * (is_bfloat16 ? 2 : 4), remaining = C;
  }
  template <int FOR_WRITING = 0>
  QKV_INLINE void fetch(int64_t rows) {
    for (; rows > 0 && remaining > 0; --rows, --remaining, address += uintptr_t(stride))
      for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(address + uintptr_t(i)), FOR_WRITING);
  }
};

// Rows are short: calling memcpy for each would take longer than copying its vectors.
QKV_INLINE void copy_row(const float* source, float* target, int64_t width) {
  int64_t i = 0;
  for (; i + L <= width; i += L) store(target + i, load(source + i));
  for (; i < width; ++i) target[i] = source[i];
}

QKV_INLINE void read_row(const char* source, bool is_bfloat16, float* target, int64_t width) {
  if (!is_bfloat16) return copy_row(reinterpret_cast<const float*>(source), target, width);
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(source);
  for (int64_t i = 0; i < width; ++i) target[i] = from_bfloat16(halves[i]);
}

QKV_INLINE void write_row(const float* source, bool is_bfloat16, const char* address, int64_t width) {
  char* target = const_cast<char*>(address);
  if (!is_bfloat16) return copy_row(source, reinterpret_cast<float*>(target), width);
  uint16_t* halves = reinterpret_cast<uint16_t*>(target);
  for (int64_t i = 0; i < width; ++i) halves[i] = to_bfloat16(source[i]);
}

// x [C, columns] -> transposed [columns, C].
inline void transpose_tokens(const float* x, int64_t row_stride, int64_t columns, float* transposed) {
  for (int64_t t = 0; t < C; t += L)
    for (int64_t d = 0; d < columns; d += L) {
      Floats block[L];
      for (int i = 0; i < L; ++i) block[i] = load(x + (t + i) * row_stride + d);
      transpose(block);
      for (int i = 0; i < L; ++i) store(transposed + (d + i) * C + t, block[i]);
    }
}

// transposed [columns, C] -> x [C, columns].
inline void transpose_back(const float* transposed, int64_t columns, float* x) {
  for (int64_t d = 0; d < columns; d += L)
    for (int64_t t = 0; t < C; t += L) {
      Floats block[L];
      for (int i = 0; i < L; ++i) block[i] = load(transposed + (d + i) * C + t);
      transpose(block);
      for (int i = 0; i < L; ++i) store(x + (t + i) * columns + d, block[i]);
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
