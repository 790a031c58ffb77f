// The feature maps of a chunk of tokens; feature_gradients.h has their gradients.  Features are rows and tokens are
// columns, so that one vector operation treats the same number of many tokens.
#pragma once
#include <algorithm>

#include "mapped_chunk.h"

namespace qkv {
namespace QKV_ISA {

class FeatureMap {
 public:
  FeatureMap(const Call& call, bool backward)
      : call_(call), s_(call), reads_in_place_(!backward && !call.is_bfloat16 && s_.width == s_.padded_width),
        projection_tiles_(s_.padded_features * s_.width),
        transposed_tiles_(backward ? s_.padded_features * s_.padded_width : 0),
        grad_logits_(backward ? s_.phi_rows * C : 0), grad_x_(backward ? s_.padded_width * C : 0),
        grad_projection_(backward ? s_.padded_features * s_.padded_width : 0),
        grad_rows_(backward ? C * s_.padded_width : 0) {}

  // Packs the projection [R, D] of head h into tiles, and clears its gradient.
  void load_projection(int64_t h, bool backward) {
    if (call_.map == ELU) return;
    const float* projection = call_.projection + h * s_.features * s_.width;
    for (int64_t r = 0; r < s_.features; ++r)
      for (int64_t d = 0; d < s_.width; ++d)
        projection_tiles_[(r / TILE_ROWS * s_.width + d) * TILE_ROWS + r % TILE_ROWS] = projection[r * s_.width + d];
    if (call_.map == GAUSSIAN) max_squared_norm_ = bound_squared_norms(projection);
    if (!backward) return;
    std::memset(grad_projection_, 0, size_t(s_.padded_features * s_.padded_width) * 4);
    for (int64_t r = 0; r < s_.features; ++r)
      for (int64_t d = 0; d < s_.width; ++d)
        transposed_tiles_[(d / TILE_ROWS * s_.padded_features + r) * TILE_ROWS + d % TILE_ROWS] =
            projection[r * s_.width + d];
  }

  // Maps the tokens of a chunk.  keep: one flag per token of the chunk, null if all are real.  Padding is never read.
  void map(const StridedTensor& source, int64_t b, int64_t h, int64_t first, int64_t tokens, const uint8_t* keep,
           MappedChunk& chunk) const {
    read_tokens(source, b, h, first, tokens, keep, chunk);
    apply_map<1>({&chunk});
  }

  // Maps queries and keys of the same positions.  A wide tile reads the projection once for both.
  void map_queries_and_keys(int64_t b, int64_t h, int64_t first, int64_t tokens, const uint8_t* keep,
                            MappedChunk& queries, MappedChunk& keys) const {
    read_tokens(call_.q, b, h, first, tokens, nullptr, queries);
    read_tokens(call_.k, b, h, first, tokens, keep, keys);
    if constexpr (PANELS == 2) apply_map<2>({&queries, &keys});
    else apply_map<1>({&queries}), apply_map<1>({&keys});
  }

  // feature_gradients.h
  void backpropagate(const MappedChunk& chunk, const float* grad_phi, const float* grad_log_weights,
                     const StridedTensor& target, int64_t b, int64_t h, int64_t first, int64_t tokens) const;
  void add_grad_projection(float* grad) const;

 private:
  void read_tokens(const StridedTensor& source, int64_t b, int64_t h, int64_t first, int64_t tokens,
                   const uint8_t* keep, MappedChunk& chunk) const {
    chunk.prefetch.start_at(source, b, h, first + C, s_.width, call_.is_bfloat16);
    if (reads_in_place_ && tokens == C && !keep) {
      for (int t = 0; t < C; ++t) chunk.feature_scale[t] = feature_scale();
      const float* rows = reinterpret_cast<const float*>(row_address(source, b, h, first, false));
      transpose_tokens(rows, source.position_stride, s_.padded_width, chunk.transposed);
      return compute_lengths(chunk);
    }
    for (int64_t t = 0; t < C; ++t) {
      bool is_real = t < tokens && (!keep || keep[t]);
      float* row = chunk.x + t * s_.padded_width;
      if (is_real)
        read_row(row_address(source, b, h, first + t, call_.is_bfloat16), call_.is_bfloat16, row, s_.width);
      else std::memset(row, 0, size_t(s_.width) * 4);
      chunk.feature_scale[t] = is_real ? feature_scale() : 0;
    }
    transpose_tokens(chunk.x, s_.padded_width, s_.padded_width, chunk.transposed);
    compute_lengths(chunk);
  }

  template <int N>
  void apply_map(MappedChunk* const (&chunks)[N]) const {
    if (call_.map == GAUSSIAN) {
      bool needs_exact = false;
      for (const MappedChunk* chunk : chunks) needs_exact = needs_exact || may_have_large_angles(*chunk);
      if (!needs_exact) return project<GAUSSIAN>(chunks);
    }
    if (call_.map == ARCCOS) return project<ARCCOS>(chunks);
    if (call_.map != ELU) project<FAVOR>(chunks);
    for (MappedChunk* chunk : chunks) {
      if (call_.map == GAUSSIAN) apply_exact_sin_cos(*chunk);
      else if (call_.map == FAVOR) apply_exp(*chunk);
      else apply_elu(*chunk);
    }
  }

  // An upper bound of the squared norms of the rows: the sum over lanes of the largest partial sum in that lane.
  float bound_squared_norms(const float* row) const {
    Floats largest{};
    for (int64_t r = 0; r < s_.features; ++r, row += s_.width) {
      Floats squares{};
      int64_t d = 0;
      for (; d + L <= s_.width; d += L) squares += load(row + d) * load(row + d);
      for (; d < s_.width; ++d) squares[d % L] += row[d] * row[d];
      largest = vector_max(largest, squares);
    }
    float bound = 0;
    for (int i = 0; i < L; ++i) bound += largest[i];
    return bound;
  }

  // Whether |W| |x| may exceed the angles that sin_cos supports; true also where it is NaN.
  bool may_have_large_angles(const MappedChunk& chunk) const {
    float squared_length = 1;
    if (!call_.unit_length) squared_length = *std::max_element(chunk.squared_length, chunk.squared_length + C);
    return !(squared_length * max_squared_norm_ <= MAX_FAST_ANGLE * MAX_FAST_ANGLE);
  }

  float feature_scale() const { return call_.map == ELU ? 1.0f : 1.0f / std::sqrt(float(s_.features)); }

  void compute_lengths(MappedChunk& chunk) const {
    if (!call_.unit_length && (call_.map == ELU || call_.map == ARCCOS)) {
      for (int t = 0; t < C; ++t) chunk.inverse_length[t] = 1;
      return;
    }
    for (int t = 0; t < C; t += L) {
      Floats squares{};
      for (int64_t d = 0; d < s_.width; ++d) {
        Floats x = load(chunk.transposed + d * C + t);
        squares += x * x;
      }
      store(chunk.squared_length + t, squares);
    }
    for (int t = 0; t < C; ++t)
      chunk.inverse_length[t] = call_.unit_length ? 1 / std::max(std::sqrt(chunk.squared_length[t]), MIN_LENGTH) : 1;
  }

  template <int MAP, int N>
  void project(MappedChunk* const (&chunks)[N]) const {
    constexpr int ROWS = TILE_ROWS / N;
    const int64_t prefetch_rows = C * ROWS / s_.padded_features + 1;
    const int64_t panel_stride = chunks[N - 1]->transposed - chunks[0]->transposed;
    for (int64_t r = 0; r < s_.padded_features; r += ROWS)
      for (int t = 0; t < C; t += P) {
        WideTile<N> tile;
        tile.clear();
        // Logits: projection [R, D] @ x^T [D, C], of N chunks at once.
        const float* rows = projection_tiles_ + r / TILE_ROWS * TILE_ROWS * s_.width + r % TILE_ROWS;
        tile.template add_product<1, TILE_ROWS>(rows, chunks[0]->transposed + t, C, s_.width, panel_stride);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          apply_nonlinearity<MAP>(tile, n, *chunks[n], r, t);
          chunks[n]->prefetch.fetch(prefetch_rows);
        }
      }
    for (MappedChunk* chunk : chunks) {
      for (int64_t r = s_.features; r < s_.padded_features; ++r) std::memset(chunk->phi + r * C, 0, C * 4);
      if (s_.has_sin_and_cos)
        for (int64_t r = s_.padded_features + s_.features; r < s_.phi_rows; ++r)
          std::memset(chunk->phi + r * C, 0, C * 4);
    }
  }

  // Turns the logits in panel n of the tile into features; FAVOR+ logits are stored as they are.
  template <int MAP, int N>
  QKV_INLINE void apply_nonlinearity(const WideTile<N>& tile, int n, MappedChunk& chunk, int64_t r, int t) const {
    float* phi = chunk.phi + r * C + t;
#pragma GCC unroll 16
    for (int i = 0; i < TILE_ROWS / N; ++i)
      for (int j = 0; j < PANEL_VECTORS; ++j) {
        float* target = phi + i * C + j * L;
        Floats scale = load(chunk.feature_scale + t + j * L), logit = tile.value[i][n * PANEL_VECTORS + j];
        if (MAP != FAVOR) logit *= load(chunk.inverse_length + t + j * L);
        if (MAP == GAUSSIAN) {
          Floats sine, cosine;
          sin_cos(logit, scale, sine, cosine);
          store(target, sine);
          store(target + s_.padded_features * C, cosine);
        } else {
          store(target, MAP == ARCCOS ? vector_max(Floats{}, logit) * scale : logit);
        }
      }
  }

  // Logits that are not yet divided by the lengths of the vectors -> sin and cos, for angles of any size.
  void apply_exact_sin_cos(MappedChunk& chunk) const {
    for (int64_t r = 0; r < s_.features; ++r)
      for (int t = 0; t < C; t += L) {
        float* phi = chunk.phi + r * C + t;
        Floats sine, cosine, angle = load(phi) * load(chunk.inverse_length + t);
        sin_cos_any_angle(angle, load(chunk.feature_scale + t), sine, cosine);
        store(phi, sine), store(phi + s_.padded_features * C, cosine);
      }
  }

  // Logits -> exp(logit - max_logit), with the largest logit of each token.
  void apply_exp(MappedChunk& chunk) const {
    for (int t = 0; t < C; t += L) {
      Floats max_logit = load(chunk.phi + t), scale = load(chunk.feature_scale + t);
      for (int64_t r = 1; r < s_.features; ++r) max_logit = vector_max(max_logit, load(chunk.phi + r * C + t));
      for (int64_t r = 0; r < s_.features; ++r) {
        float* phi = chunk.phi + r * C + t;
        store(phi, exponential(load(phi) - max_logit) * scale);
      }
      store(chunk.max_logit + t, max_logit);
    }
  }

  // phi = elu(x) + 1
  void apply_elu(MappedChunk& chunk) const {
    for (int64_t d = 0; d < s_.features; ++d)
      for (int t = 0; t < C; t += L) {
        Floats x = load(chunk.transposed + d * C + t), zero{}, scale = load(chunk.feature_scale + t);
        store(chunk.phi + d * C + t, (exponential(vector_min(zero, x)) + vector_max(zero, x)) * scale);
      }
  }

  // feature_gradients.h
  void backpropagate_elu(const MappedChunk& chunk, const float* grad_phi) const;
  void backpropagate_projection(const MappedChunk& chunk, const float* grad_phi) const;
  void backpropagate_unit_length(const MappedChunk& chunk) const;
  void add_squared_length_gradient(const MappedChunk& chunk, const float* grad_log_weights) const;

  const Call& call_;
  Sizes s_;
  float max_squared_norm_ = 0;  // no row of the projection has a larger squared norm
  bool reads_in_place_;  // tokens are transposed straight from the caller's tensor; a backward pass needs a copy of x
  Buffer projection_tiles_;     // [R / TILE_ROWS, D, TILE_ROWS]
  Buffer transposed_tiles_;     // [D / TILE_ROWS, R, TILE_ROWS]
  Buffer grad_logits_, grad_x_, grad_projection_, grad_rows_;  // [R, C], [D, C], [R, D] in panels, [C, D]
};

}  // namespace QKV_ISA
}  // namespace qkv
