// The backward pass over the keys of one head: gradients of keys, values and log weights.  See backward.h.
#pragma once
#include "backward.h"

namespace qkv {
namespace QKV_ISA {

// weights[t, s], carry_factors, final_weights and final_carry_factor of a causal chunk.  The largest log weights are
// computed anew: a forward pass over few tokens sums in another order, and the logarithms of keys much longer than
// usual differ by more than their weights allow.
inline void Backward::recompute_weights(int64_t first, int64_t tokens) {
  has_unit_triangle_ = false;
  const Ints lanes = lane_indices();
  if (!call_.has_key_weights) {
    for (int t = 0; t < C; ++t) {
      carry_factors[t] = 1, final_weights[t] = is_real[t];
      for (int s = 0; s < C; s += L)
        store(weights + t * C + s, (lanes + s <= broadcast_int(t)) ? load(is_real + s) : Floats{});
    }
    final_carry_factor = 1;
    return;
  }
  const int64_t index = b * call_.heads + h;
  const float initial_log_scale = call_.initial_log_scale ? call_.initial_log_scale[index] : LOG_ZERO;
  float carry_log = first > 0 ? call_.max_log_weights[query_index(first - 1)] : initial_log_scale;
  for (int s = 0; s < C; s += L) {
    Floats log_decay_since{};
    for (int t = 0; t < C; ++t) {
      log_decay_since = lanes + s < broadcast_int(t) ? log_decay_since + log_decay[t] : Floats{};
      const Floats log = log_decay_since + load(log_weights + s);
      store(weights + t * C + s, lanes + s <= broadcast_int(t) ? log : broadcast(LOG_ZERO));
    }
  }
  for (int t = 0; t < C; ++t) {
    carry_log += log_decay[t];
    Floats max_log = broadcast(carry_log);
    for (int s = 0; s < C; s += L) max_log = vector_max(max_log, load(weights + t * C + s));
    max_log_weights[t] = max_log[0];
    for (int i = 1; i < L; ++i) max_log_weights[t] = std::max(max_log_weights[t], max_log[i]);
    carry_factors[t] = relative_weight(carry_log, max_log_weights[t]);
    const float shift = max_log_weights[t] == LOG_ZERO ? 0 : max_log_weights[t];
    for (int s = 0; s < C; s += L) store(weights + t * C + s, exponential(load(weights + t * C + s) - shift));
  }
  std::memcpy(final_weights, weights + (tokens - 1) * C, sizeof final_weights);
  final_carry_factor = carry_factors[tokens - 1];
}

// Not causal: the weights of this chunk's keys after all keys.
inline void Backward::recompute_final_weights() {
  for (int s = C - 1; s >= 0; --s) {
    final_weights[s] =
        call_.has_key_weights ? relative_weight(log_weights[s] + float(later_log_decay_), state.log_scale) : is_real[s];
    later_log_decay_ += log_decay[s];
  }
}

// grad_scores_[t, s] = m_ts U_t . v_s and scores_[t, s] = m_ts (phi(q_t) . phi(k_s) + fill_t); and the part of the
// gradients of the log weights that comes from denominators and weight sums.
inline void Backward::compute_grad_scores_by_query(int64_t tokens) {
  for (int s = 0; s < C; s += L) store(grad_log_weights_ + s, Floats{});
  for (int t = 0; t < tokens; t += TILE_ROWS)
    for (int s = 0; s <= t; s += P) {
      Tile grad_tile, score_tile;
      for (int i = 0; i < TILE_ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j) grad_tile.value[i][j] = broadcast(grad_denominators_[t + i]);
      // U [C queries, E] @ values^T [E, C keys].
      for (int64_t e = 0; e < s_.padded_value; e += P)
        grad_tile.template add_product<P, 1>(u_ + e * C + t * P, v_transposed_ + e * C + s, C, P);
      score_tile.clear();
      // phi(Q) [C queries, F] @ phi(K)^T [F, C keys].
      score_tile.template add_product<1, C>(queries.phi + t, keys.phi + s, C, s_.phi_rows);
      for (int j = 0; j < PANEL_VECTORS; ++j) {
        Floats grad = load(grad_log_weights_ + s + j * L);
        for (int i = 0; i < TILE_ROWS; ++i) {
          const int64_t index = (t + i) * C + s + j * L;
          const Floats weight = load(weights + index);
          grad += weight * (score_tile.value[i][j] * grad_denominators_[t + i] + grad_weight_sums_[t + i]);
          grad += weight * weight * (2 * grad_squared_weight_sums_[t + i]);
          store(grad_scores_ + index, weight * grad_tile.value[i][j]);
          store(scores_ + index, weight * (score_tile.value[i][j] + query_fill_factors_[t + i]));
        }
        store(grad_log_weights_ + s + j * L, grad);
      }
    }
}

inline void Backward::compute_grad_phi_of_keys(int64_t tokens) {
  for (int64_t f = 0; f < s_.phi_rows; f += TILE_ROWS)
    for (int s = 0; s < C; s += P) {
      Tile tile;
      for (int i = 0; i < TILE_ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j) tile.value[i][j] = broadcast(grad_state.denominator_sums[f + i]);
      // Inter-chunk: gradient of the sums [F, E] @ values^T [E, C keys].
      for (int64_t e = 0; e < s_.padded_value; e += P)
        tile.template add_product<P, 1>(grad_state.feature_sums + e * s_.phi_rows + f * P, v_transposed_ + e * C + s, C,
                                        P);
      tile.scale_columns(final_weights + s);
      // Intra-chunk: phi(Q)^T [F, C queries] @ grad_scores_ [C queries, C keys].
      if (call_.causal && s < tokens)
        tile.template add_product<C, 1>(queries.phi + f * C + s, grad_scores_ + s * C + s, C, tokens - s);
      tile.write(grad_phi_ + f * C + s, C);
    }
}

inline void Backward::compute_grad_values(int64_t tokens) {
  for_each_panel(s_.padded_value, [&](auto panels, int64_t e) {
    constexpr int N = panels, ROWS = TILE_ROWS / N;
    for (int64_t s = 0; s < tokens; s += ROWS) {
      WideTile<N> tile;
      tile.read(grad_state.value_sums + e, 0, P);
      // Inter-chunk: phi(K) [C keys, F] @ gradient of the sums [F, E].
      const float* grad_sums = grad_state.feature_sums + e * s_.phi_rows;
      tile.template add_product<1, C>(keys.phi + s, grad_sums, P, s_.phi_rows, s_.phi_rows * P);
      tile.scale_rows(final_weights + s);
      // Intra-chunk: scores_^T [C keys, C queries] @ U [C queries, E].
      if (call_.causal)
        tile.template add_product<1, C>(scores_ + s * C + s, u_ + e * C + s * P, P, tokens - s, C * P);
      tile.write(grad_v_ + s * s_.padded_value + e, int(s_.padded_value), P);
    }
  });
}

inline void Backward::compute_grad_log_weights(int64_t first, int64_t tokens, double& grad_log_weight_sum) {
  for (int s = 0; s < C; s += L) {
    Floats grad = broadcast(grad_state.weight_sum);
    // phi(K) [C, F] @ gradient of the feature sums [F].
    for (int64_t f = 0; f < s_.phi_rows; ++f) grad += load(keys.phi + f * C + s) * grad_state.denominator_sums[f];
    const Floats weight = load(final_weights + s);
    grad = grad * weight + weight * weight * (2 * grad_state.squared_weight_sum);
    if (call_.causal) grad += load(grad_log_weights_ + s);
    Floats row[L];
    for (int i = 0; i < L; ++i) {
      row[i] = Floats{};
      for (int64_t e = 0; e < s_.padded_value; e += L)
        row[i] += load(values + panel_index(s + i, e, C)) * load(grad_v_ + (s + i) * s_.padded_value + e);
    }
    store(grad_log_weights_ + s, grad + sum_rows(row));
  }
  const int64_t index = (b * call_.heads + h) * call_.keys + first;
  for (int64_t s = tokens - 1; s >= 0; --s) {
    grad_log_weight_sum += grad_log_weights_[s];
    if (call_.grad_log_weights) call_.grad_log_weights[index + s] = is_real[s] ? grad_log_weights_[s] : 0;
    if (call_.grad_log_decay) call_.grad_log_decay[index + s] = float(grad_total_log_weight_ - grad_log_weight_sum);
  }
}

// grad_state <- final_carry_factor * grad_state + sum_t carry_factor_t phi(q_t) (x) U_t, which makes it the gradient of
// the sums before this chunk.
inline void Backward::accumulate_grad_state(int64_t tokens) {
  for (int64_t t = 0; t < C; ++t) {
    if (t >= tokens) carry_factors[t] = 0;
    grad_denominators_[t] *= carry_factors[t];
  }
  if (call_.has_key_weights && call_.causal)
    for (int64_t e = 0; e < s_.padded_value; e += L)
      for (int64_t t = 0; t < tokens; ++t) {
        float* u = u_ + panel_index(t, e, C);
        store(u, load(u) * carry_factors[t]);
      }
  for_each_panel(s_.padded_value, [&](auto panels, int64_t e) {
    constexpr int N = panels, ROWS = TILE_ROWS / N;
    for (int64_t f = 0; f < s_.phi_rows; f += ROWS) {
      WideTile<N> tile;
      float* grad_sums = grad_state.feature_sums + e * s_.phi_rows + f * P;
      tile.read(grad_sums, P, s_.phi_rows * P);
      tile.scale(final_carry_factor);
      // phi(Q)^T [F, C] @ U [C, E].
      tile.template add_product<C, 1>(queries.phi + f * C, u_ + e * C, P, tokens, C * P);
      tile.write(grad_sums, P, s_.phi_rows * P);
    }
  });
  for (int64_t f = 0; f < s_.phi_rows; ++f) {
    // phi(Q)^T [F, C] @ gradients of the denominators [C].
    Floats sum{};
    for (int t = 0; t < C; t += L) sum += load(queries.phi + f * C + t) * load(grad_denominators_ + t);
    float feature_sum = grad_state.denominator_sums[f] * final_carry_factor;
    for (int i = 0; i < L; ++i) feature_sum += sum[i];
    grad_state.denominator_sums[f] = feature_sum;
  }
  for (int64_t e = 0; e < s_.padded_value; e += L) {
    // fill factors [C] @ U [C, E].
    Floats sum = load(grad_state.value_sums + e) * final_carry_factor;
    for (int64_t t = 0; t < tokens; ++t) sum += load(u_ + panel_index(t, e, C)) * query_fill_factors_[t];
    store(grad_state.value_sums + e, sum);
  }
  grad_state.weight_sum *= final_carry_factor;
  grad_state.squared_weight_sum *= final_carry_factor * final_carry_factor;
  for (int64_t t = 0; t < tokens; ++t) {
    grad_state.weight_sum += carry_factors[t] * grad_weight_sums_[t];
    grad_state.squared_weight_sum += carry_factors[t] * carry_factors[t] * grad_squared_weight_sums_[t];
  }
}

// Writes grad_state as the gradient of the call's initial sums.
inline void Backward::store_grad_initial_state() {
  if (!call_.grad_initial_feature_sums) return;
  const int64_t index = b * call_.heads + h;
  if (!call_.causal && call_.has_key_weights) {
    const float factor = relative_weight(call_.initial_log_scale[index] + float(later_log_decay_), state.log_scale);
    for (int64_t i = 0; i < s_.phi_rows * s_.padded_value; ++i) grad_state.feature_sums[i] *= factor;
    for (int64_t i = 0; i < s_.phi_rows; ++i) grad_state.denominator_sums[i] *= factor;
    for (int64_t i = 0; i < s_.padded_value; ++i) grad_state.value_sums[i] *= factor;
    grad_state.weight_sum *= factor, grad_state.squared_weight_sum *= factor * factor;
  }
  store_state(grad_state, call_.grad_initial_feature_sums, call_.grad_initial_plain_sums, nullptr);
}

inline void Backward::process_key_chunk(int64_t first, int64_t tokens, double& grad_log_weight_sum) {
  read_keys(first, tokens);
  transpose_panels(values, v_transposed_);
  if (call_.causal) {
    read_queries(first, tokens);
    recompute_weights(first, tokens);
    load_query_gradients(first, tokens);
    compute_grad_scores_by_query(tokens);
  } else {
    recompute_final_weights();
  }
  compute_grad_phi_of_keys(tokens);
  compute_grad_values(tokens);
  for (int64_t s = 0; s < tokens; ++s) {
    const char* target = row_address(call_.grad_v, b, h, first + s, call_.is_bfloat16);
    write_row(grad_v_ + s * s_.padded_value, call_.is_bfloat16, target, s_.value);
  }
  const bool needs_log_weights = call_.has_key_weights && (call_.grad_log_weights || call_.map == FAVOR);
  if (needs_log_weights) compute_grad_log_weights(first, tokens, grad_log_weight_sum);
  const float* grad_log_weights = needs_log_weights ? grad_log_weights_ : nullptr;
  features.backpropagate(keys, grad_phi_, grad_log_weights, call_.grad_k, b, h, first, tokens);
  if (call_.causal) accumulate_grad_state(tokens);
}

}  // namespace QKV_ISA
}  // namespace qkv
