// The sizes of a call in whole vectors, and queries or keys of a chunk with their features.
#pragma once
#include "rows.h"

namespace qkv {
namespace QKV_ISA {

constexpr float SHORTEST = 1e-3f;  // as in rfa.unit

struct Sizes {
  explicit Sizes(const Call& c)
      : width(c.width), value(c.value), features(c.features), paired(c.map == GAUSSIAN),
        columns(up_to(c.width, P)), values(up_to(c.value, P)), block(up_to(c.features, TALL)),
        rows(paired ? 2 * block : block) {}

  int64_t width, value, features;
  bool paired;      // sin and cos of every feature
  int64_t columns;  // of x
  int64_t values;   // columns of values
  int64_t block;    // rows of sin, of cos, or of all there is
  int64_t rows;     // of phi

  int64_t outside() const { return paired ? 2 * features : features; }
  int64_t row_of(int64_t feature) const {
    return feature < features ? feature : feature - features + block;
  }
};

// Queries or keys of one chunk: x [C, columns], its transpose, what each token is scaled by, and phi with rows of
// zeros up to a whole vector.
struct Mapped {
  Mapped(const Sizes& s, float* turned) : x(C * s.columns), turned(turned), phi(up_to(s.rows, L) * C) {}
  Buffer x;
  float* turned;
  Buffer phi;
  alignas(64) float inverse[C], amplitude[C], peak[C], square[C];
  Ahead ahead;
};

}  // namespace QKV_ISA
}  // namespace qkv
