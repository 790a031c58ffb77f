// The gradients of the feature maps of a chunk of tokens.
#pragma once
#include "features.h"

namespace qkv {
namespace QKV_ISA {

// grad_phi [F, C]; grad_log_weights [C], or null.  Writes the gradient of x to `target` and adds the gradient of the
// projection to the one kept here.
inline void FeatureMap::backpropagate(const MappedChunk& chunk, const float* grad_phi, const float* grad_log_weights,
                                      const StridedTensor& target, int64_t b, int64_t h, int64_t first,
                                      int64_t tokens) const {
  if (call_.map == ELU) backpropagate_elu(chunk, grad_phi);
  else backpropagate_projection(chunk, grad_phi);
  if (call_.unit_length) backpropagate_unit_length(chunk);
  if (call_.map == FAVOR && grad_log_weights) add_squared_length_gradient(chunk, grad_log_weights);
  transpose_back(grad_x_, s_.padded_width, grad_rows_);
  for (int64_t t = 0; t < tokens; ++t) {
    const char* row = row_address(target, b, h, first + t, call_.is_bfloat16);
    write_row(grad_rows_ + t * s_.padded_width, call_.is_bfloat16, row, s_.width);
  }
}

// grad [R, D] += the gradient of the projection since load_projection.
inline void FeatureMap::add_grad_projection(float* grad) const {
  for (int64_t r = 0; r < s_.features; ++r)
    for (int64_t d = 0; d < s_.width; ++d)
      grad[r * s_.width + d] += grad_projection_[panel_index(r, d, s_.padded_features)];
}

// grad_x_ = grad_phi * the derivative of elu(x) + 1, which is min(phi, 1).
inline void FeatureMap::backpropagate_elu(const MappedChunk& chunk, const float* grad_phi) const {
  for (int64_t i = 0; i < s_.features * C; i += L)
    store(grad_x_ + i, load(grad_phi + i) * vector_min(load(chunk.phi + i), broadcast(1)));
}

// grad_phi -> the gradients of the logits, of x, and of the projection.
inline void FeatureMap::backpropagate_projection(const MappedChunk& chunk, const float* grad_phi) const {
  const int64_t cosines = s_.padded_features * C;
  for (int64_t r = 0; r < s_.padded_features; ++r)
    for (int t = 0; t < C; t += L) {
      const int64_t i = r * C + t;
      const Floats phi = load(chunk.phi + i), grad = load(grad_phi + i);
      Floats slope;
      if (call_.map == GAUSSIAN)
        slope = grad * load(chunk.phi + cosines + i) - load(grad_phi + cosines + i) * phi;
      else if (call_.map == ARCCOS) slope = phi > Floats{} ? grad * load(chunk.feature_scale + t) : Floats{};
      else slope = grad * phi;
      store(grad_logits_ + i, slope * load(chunk.inverse_length + t));
    }
  for (int64_t d = 0; d < s_.width; d += TILE_ROWS)
    for (int t = 0; t < C; t += P) {
      Tile tile;
      tile.clear();
      // projection^T [D, R] @ gradient of the logits [R, C].
      const float* rows = transposed_tiles_ + d * s_.padded_features;
      tile.template add_product<1, TILE_ROWS>(rows, grad_logits_ + t, C, s_.features);
      tile.write(grad_x_ + d * C + t, C);
    }
  if (!call_.grad_projection) return;
  for (int64_t d = 0; d < s_.padded_width; d += P)
    for (int64_t r = 0; r < s_.padded_features; r += TILE_ROWS) {
      Tile tile;
      float* grad = grad_projection_ + panel_index(r, d, s_.padded_features);
      tile.read(grad, P);
      // gradient of the logits [R, C] @ x [C, D].
      tile.template add_product<C, 1>(grad_logits_ + r * C, chunk.x + d, s_.padded_width, C);
      tile.write(grad, P);
    }
}

// Removes the component along x: it does not change a vector that is scaled to length 1.
inline void FeatureMap::backpropagate_unit_length(const MappedChunk& chunk) const {
  for (int t = 0; t < C; t += L) {
    Floats along{}, inverse = load(chunk.inverse_length + t);
    for (int64_t d = 0; d < s_.width; ++d) along += load(grad_x_ + d * C + t) * load(chunk.transposed + d * C + t);
    const Floats squared_length = load(chunk.squared_length + t);
    along = squared_length > MIN_LENGTH * MIN_LENGTH ? along * inverse * inverse : Floats{};
    for (int64_t d = 0; d < s_.width; ++d) {
      float* grad = grad_x_ + d * C + t;
      store(grad, load(grad) - load(chunk.transposed + d * C + t) * along);
    }
  }
}

// The log weight of a FAVOR+ key falls by squared_length_factor * |x|^2.
inline void FeatureMap::add_squared_length_gradient(const MappedChunk& chunk, const float* grad_log_weights) const {
  for (int64_t d = 0; d < s_.width; ++d)
    for (int t = 0; t < C; t += L) {
      float* grad = grad_x_ + d * C + t;
      const Floats x = load(chunk.transposed + d * C + t);
      store(grad, load(grad) - x * load(grad_log_weights + t) * (2 * call_.squared_length_factor));
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
