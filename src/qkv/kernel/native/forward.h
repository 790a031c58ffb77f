// The forward pass over one chunk; chunks.h explains the algorithm.
#pragma once
#include "key_weights.h"

namespace qkv {
namespace QKV_ISA {

// How far a denominator lies below the noise of such a sum, floor * sqrt(squared_weight_sum); at least 0.
inline float compute_deficit(float floor, float squared_weight_sum, float denominator) {
  return std::max(floor * std::sqrt(squared_weight_sum > 0 ? squared_weight_sum : 1) - denominator, 0.0f);
}

// The intra-chunk scores and the denominators of the queries.
inline void ChunkedAttention::compute_scores(const State& state, int64_t tokens) {
  for (int t = 0; t < C; t += P)
    for (int s = 0; s < std::min<int>(t + P, int(tokens)); s += TILE_ROWS) {
      Tile tile;
      tile.clear();
      // [C keys, F] @ [F, C queries]; below the diagonal of a panel only its last vectors are needed.
      if (s < t + L) tile.template add_product<1, C>(keys.phi + s, queries.phi + t, C, s_.phi_rows);
      else tile.template add_product<1, C, 1>(keys.phi + s, queries.phi + t, C, s_.phi_rows);
      tile.write(scores + s * C + t, C);
    }
  multiply_denominator_sums(state);
  for (int t = 0; t < C; t += L) {
    Floats denominator = load(denominators + t) * load(carry_factors + t);
    for (int s = 0; s < std::min<int>(t + L, int(tokens)); ++s) {
      Floats score = load(scores + s * C + t) * load(weights + s * C + t);
      store(scores + s * C + t, score);
      denominator += score;
    }
    store(denominators + t, denominator);
  }
}

// denominators [C] = phi(Q) [C, F] @ denominator_sums [F], in four independent sums: one sum would wait for itself.
inline void ChunkedAttention::multiply_denominator_sums(const State& state) {
  for (int t = 0; t < C; t += P) {
    Floats sum[4][PANEL_VECTORS] = {};
    for (int64_t f = 0; f < s_.phi_rows; f += 4)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j)
          sum[i][j] += load(queries.phi + (f + i) * C + t + j * L) * state.denominator_sums[f + i];
    for (int j = 0; j < PANEL_VECTORS; ++j)
      store(denominators + t + j * L, (sum[0][j] + sum[1][j]) + (sum[2][j] + sum[3][j]));
  }
}

// Denominators and weight sums of queries that see the state and no key of their own chunk.
inline void ChunkedAttention::read_state_denominators(const State& state) {
  multiply_denominator_sums(state);
  for (int t = 0; t < C; t += L) {
    store(weight_sums + t, broadcast(state.weight_sum));
    store(squared_weight_sums + t, broadcast(state.squared_weight_sum));
    store(carry_factors + t, broadcast(1)), store(max_log_weights + t, broadcast(state.log_scale));
  }
}

// The factors of out = (averages + deficit * visible_values / weight_sum) / (denominator + deficit).
inline void ChunkedAttention::compute_normalisers() {
  for (int t = 0; t < C; ++t) {
    const float deficit = compute_deficit(call_.floor, squared_weight_sums[t], denominators[t]);
    inverse_denominators_[t] = weight_sums[t] > 0 ? 1 / (denominators[t] + deficit) : 1;
    fill_factors_[t] = weight_sums[t] > 0 ? deficit / weight_sums[t] * inverse_denominators_[t] : 0;
  }
}

// The averages in the N panels of columns from e on, for one block of rows of the sums; the last block also adds the
// intra-chunk part and divides by the denominators.
template <int N>
inline void ChunkedAttention::average_panels(const State& state, int64_t e, Range rows, int64_t tokens,
                                             bool adds_intra_chunk) {
  constexpr int ROWS = TILE_ROWS / N;
  const float* sums = state.feature_sums + e * s_.phi_rows + rows.begin * P;
  for (int64_t t = 0; t < tokens; t += ROWS) {
    WideTile<N> tile;
    float* averages = averages_ + t * s_.padded_value + e;
    if (rows.begin == 0) tile.clear();
    else tile.read(averages, int(s_.padded_value), P);
    // Inter-chunk: phi(Q) [C, F] @ feature_sums [F, E].
    const float* phi = queries.phi + rows.begin * C + t;
    tile.template add_product<1, C>(phi, sums, P, rows.end - rows.begin, s_.phi_rows * P);
    if (rows.end == s_.phi_rows) {
      if (adds_intra_chunk) {
        if (call_.has_key_weights) tile.scale_rows(carry_factors + t);
        // Intra-chunk: scores^T [C queries, C keys] @ values [C keys, E].
        tile.template add_product<1, C>(scores + t, values + e * C, P, std::min(t + ROWS, tokens), C * P);
      }
      tile.scale_rows(inverse_denominators_ + t);
    }
    tile.write(averages, int(s_.padded_value), P);
  }
}

inline void ChunkedAttention::write_averages(const State& state, int64_t first, int64_t tokens,
                                             bool adds_intra_chunk) {
  for (int64_t t = 0; t < tokens; ++t) {
    float* row = averages_ + t * s_.padded_value;
    if (fill_factors_[t] > 0) {
      sum_visible_values(state, t, adds_intra_chunk);
      for (int64_t e = 0; e < s_.value; ++e) row[e] += fill_factors_[t] * visible_values_[e];
    }
    write_row(row, call_.is_bfloat16, row_address(call_.out, b, h, first + t, call_.is_bfloat16), s_.value);
  }
}

// visible_values_ [E] = carry_factor * value_sums [E] + weights [C] @ values [C, E], for query t.
inline void ChunkedAttention::sum_visible_values(const State& state, int64_t t, bool adds_intra_chunk) {
  const float carry_factor = adds_intra_chunk ? carry_factors[t] : 1;
  for (int64_t e = 0; e < s_.padded_value; e += P) {
    for (int j = 0; j < P; ++j) visible_values_[e + j] = carry_factor * state.value_sums[e + j];
    if (!adds_intra_chunk) continue;
    for (int64_t s = 0; s <= t; ++s)
      for (int j = 0; j < P; ++j) visible_values_[e + j] += weights[s * C + t] * values[e * C + s * P + j];
  }
}

// scaled_values_ [C, N * P] = the values of these panels, each times the final weight of its key.
template <int N>
inline void ChunkedAttention::scale_values(const float* panels, int64_t tokens) {
  for (int n = 0; n < N; ++n)
    for (int s = 0; s < tokens; ++s)
      for (int64_t i = n * C * P + s * P, j = 0; j < P; j += L)
        store(scaled_values_ + i + j, load(panels + i + j) * final_weights[s]);
}

// Adds the keys of the chunk to one block of rows of the sums, in the N panels of columns from e on.
template <int N>
inline void ChunkedAttention::accumulate_panels(State& state, int64_t e, Range rows, int64_t tokens) {
  constexpr int ROWS = TILE_ROWS / N;
  const float* panels = values + e * C;
  if (call_.has_key_weights) {
    if (rows.begin == 0) scale_values<N>(panels, tokens);
    panels = scaled_values_;
  }
  const int64_t prefetch_rows = C * ROWS / s_.phi_rows + 1;
  for (int64_t f = rows.begin; f < rows.end; f += ROWS) {
    WideTile<N> tile;
    float* sums = state.feature_sums + e * s_.phi_rows + f * P;
    tile.read(sums, P, s_.phi_rows * P);
    if (call_.has_key_weights) tile.scale(final_carry_factor);
    // phi(K)^T [F, C] @ values [C, E].
    tile.template add_product<C, 1>(keys.phi + f * C, panels, P, tokens, C * P);
    tile.write(sums, P, s_.phi_rows * P);
    value_prefetch_.fetch(prefetch_rows);
    out_prefetch_.fetch<1>(prefetch_rows);
  }
}

// Adds the keys of the chunk to the parts of the state that are vectors or numbers.
inline void ChunkedAttention::accumulate_vectors(State& state, int64_t tokens) {
  for (int64_t e = 0; e < s_.padded_value; e += L) {
    const float* panel = values + panel_index(0, e, C);
    // final_weights [C] @ values [C, E].
    Floats sum[4] = {load(state.value_sums + e) * final_carry_factor};
    for (int s = 0; s < C; s += 4)
      for (int i = 0; i < 4; ++i) sum[i] += load(panel + (s + i) * P) * final_weights[s + i];
    store(state.value_sums + e, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  for (int64_t f = 0; f < s_.phi_rows; f += L) {
    // phi(K)^T [F, C] @ final_weights [C].
    Floats row[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      row[i] = load(keys.phi + (f + i) * C) * load(final_weights);
      for (int s = L; s < C; s += L) row[i] += load(keys.phi + (f + i) * C + s) * load(final_weights + s);
    }
    store(state.denominator_sums + f, load(state.denominator_sums + f) * final_carry_factor + sum_rows(row));
  }
  float sum = 0, squared_sum = 0;
  for (int s = 0; s < C; ++s) sum += final_weights[s], squared_sum += final_weights[s] * final_weights[s];
  if (call_.has_key_weights)
    for (int s = 0; s < tokens; ++s) state.total_log_decay += log_decay[s];
  state.weight_sum = state.weight_sum * final_carry_factor + sum;
  state.squared_weight_sum = state.squared_weight_sum * final_carry_factor * final_carry_factor + squared_sum;
  state.log_scale = final_max_log_weight;
}

// Causal: attends from the queries of a chunk and accumulates its keys.  Each block of the sums is read by the queries
// and then added to while it is in the cache.
inline void ChunkedAttention::process_chunk(State& state, int64_t first, int64_t tokens) {
  compute_weights(state);
  compute_scores(state, tokens);
  out_prefetch_.start_at(call_.out, b, h, first, s_.value, call_.is_bfloat16);
  copy_final_weights(tokens);
  compute_normalisers();
  for_each_block([&](auto panels, int64_t e, Range rows) {
    average_panels<panels>(state, e, rows, tokens, true);
    accumulate_panels<panels>(state, e, rows, tokens);
  });
  write_averages(state, first, tokens, true);
  accumulate_vectors(state, tokens);
}

// Not causal: attends from the queries of a chunk to the state.
inline void ChunkedAttention::attend_to_state(const State& state, int64_t first, int64_t tokens) {
  read_state_denominators(state);
  compute_normalisers();
  for_each_block([&](auto panels, int64_t e, Range rows) { average_panels<panels>(state, e, rows, tokens, false); });
  write_averages(state, first, tokens, false);
}

// Accumulates the keys of a chunk without its queries.
inline void ChunkedAttention::accumulate_keys(State& state, int64_t tokens) {
  compute_final_weights(state);
  accumulate(state, tokens);
}

// Accumulates the keys of a chunk whose final weights are known.
inline void ChunkedAttention::accumulate(State& state, int64_t tokens) {
  for_each_block([&](auto panels, int64_t e, Range rows) { accumulate_panels<panels>(state, e, rows, tokens); });
  accumulate_vectors(state, tokens);
}

}  // namespace QKV_ISA
}  // namespace qkv
