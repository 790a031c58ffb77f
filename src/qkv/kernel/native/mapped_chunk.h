// The sizes of a call rounded up to whole vectors and tiles, and the queries or keys of a chunk with their features.
#pragma once
#include "memory.h"

namespace qkv {
namespace QKV_ISA {

constexpr float MIN_LENGTH = 1e-3f;  // shorter vectors are divided by this; as in qkv.score.cosine

struct Sizes {
  explicit Sizes(const Call& call)
      : width(call.key_width), value(call.value_width), features(call.features),
        has_sin_and_cos(call.map == GAUSSIAN), padded_width(round_up(call.key_width, P)),
        padded_value(round_up(call.value_width, P)), padded_features(round_up(call.features, TILE_ROWS)),
        phi_rows(has_sin_and_cos ? 2 * padded_features : padded_features) {}

  int64_t width, value, features;  // D, E and R
  bool has_sin_and_cos;            // phi has the sine and the cosine of every feature
  int64_t padded_width;            // columns of x
  int64_t padded_value;            // columns of the values
  int64_t padded_features;         // rows of phi of the sines, of the cosines, or of all features
  int64_t phi_rows;                // rows of phi

  // F, the features as Python sees them, and the row of phi where one of them is stored.
  int64_t feature_count() const { return has_sin_and_cos ? 2 * features : features; }
  int64_t phi_row(int64_t feature) const {
    return feature < features ? feature : feature - features + padded_features;
  }
};

// Queries or keys of one chunk.
struct MappedChunk {
  MappedChunk(const Sizes& s, float* transposed)
      : x(C * s.padded_width), transposed(transposed), phi(round_up(s.phi_rows, L) * C) {}
  Buffer x;           // [C, D]
  float* transposed;  // [D, C]
  Buffer phi;         // [F, C]; rows beyond F are zero
  // Of every token: 1 / length (1 if vectors are not scaled), the factor of its features (0 for padding), the largest
  // logit (FAVOR+), and the squared length.
  alignas(64) float inverse_length[C], feature_scale[C], max_logit[C], squared_length[C];
  Prefetcher prefetch;
};

}  // namespace QKV_ISA
}  // namespace qkv
