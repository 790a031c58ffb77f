// The weights of the keys of a chunk; chunks.h explains what they are.
#pragma once
#include "chunks.h"

namespace qkv {
namespace QKV_ISA {

inline void ChunkedAttention::read_log_weights(int64_t first, int64_t tokens) {
  for (int64_t s = 0; s < C; ++s) {
    log_weights[s] = is_real[s] == 0 ? LOG_ZERO : log_weights_ ? log_weights_[first + s] : 0;
    if (call_.map == FAVOR && is_real[s] != 0)
      log_weights[s] += favor_log_weight(call_, keys.max_logit[s], keys.squared_length[s]);
    log_decay[s] = s < tokens && log_decay_ ? log_decay_[first + s] : 0;
  }
}

// The final weights of keys of weight 1.
inline void ChunkedAttention::set_equal_final_weights(const State& state) {
  std::memcpy(final_weights, is_real, sizeof is_real);
  final_carry_factor = 1, final_max_log_weight = state.log_scale;
}

// As compute_weights, of keys of weight 1.
inline void ChunkedAttention::set_equal_weights(const State& state) {
  set_equal_final_weights(state);
  const Ints lanes = lane_indices();
  float sum = state.weight_sum, squared_sum = state.squared_weight_sum;
  for (int t = 0; t < C; ++t) {
    weight_sums[t] = sum += is_real[t], squared_weight_sums[t] = squared_sum += is_real[t];
    carry_factors[t] = 1, max_log_weights[t] = state.log_scale;
  }
  bool all_real = true;
  for (int s = 0; s < C; ++s) all_real = all_real && is_real[s] == 1;
  if (all_real && has_unit_triangle_) return;
  for (int t = 0; t < C; t += L)
    for (int s = 0; s < std::min(t + L, C); ++s)
      store(weights + s * C + t, (broadcast_int(s) <= lanes + t) ? broadcast(is_real[s]) : Floats{});
  has_unit_triangle_ = all_real;
}

// The final weights of a chunk whose queries are not needed: for accumulate_keys.
inline void ChunkedAttention::compute_final_weights(const State& state) {
  if (!call_.has_key_weights) return set_equal_final_weights(state);
  alignas(64) float logs[C];
  float later_log_decay = 0;
  for (int s = C - 1; s >= 0; --s) logs[s] = log_weights[s] + later_log_decay, later_log_decay += log_decay[s];
  const float carry_log = state.log_scale + later_log_decay;
  final_max_log_weight = carry_log;
  for (int s = 0; s < C; ++s) final_max_log_weight = std::max(final_max_log_weight, logs[s]);
  for (int s = 0; s < C; ++s) final_weights[s] = relative_weight(logs[s], final_max_log_weight);
  final_carry_factor = relative_weight(carry_log, final_max_log_weight);
}

// weights[s, t] of key s at query t, 0 for t < s; carry_factors, max_log_weights, weight_sums and squared_weight_sums
// of every query.
inline void ChunkedAttention::compute_weights(const State& state) {
  if (!call_.has_key_weights) return set_equal_weights(state);
  const Ints lanes = lane_indices();
  alignas(64) float carry_logs[C];
  float carry_log = state.log_scale;
  for (int t = 0; t < C; ++t) carry_logs[t] = carry_log += log_decay[t];
  for (int t = 0; t < C; t += L) {
    Floats log_decay_since{}, max_log = load(carry_logs + t);
    for (int s = std::min(t + L, C) - 1; s >= 0; --s) {
      Ints is_later = broadcast_int(s) < lanes + t;
      log_decay_since = is_later ? log_decay_since + (s + 1 < C ? log_decay[s + 1] : 0) : Floats{};
      Floats log = (broadcast_int(s) <= lanes + t) ? log_decay_since + log_weights[s] : broadcast(LOG_ZERO);
      max_log = vector_max(max_log, log);
      store(weights + s * C + t, log);
    }
    store(max_log_weights + t, max_log);
    max_log = max_log == LOG_ZERO ? Floats{} : max_log;
    Floats sum = exponential(load(carry_logs + t) - max_log);
    store(carry_factors + t, sum);
    Floats squared_sum = sum * sum * state.squared_weight_sum;
    sum *= state.weight_sum;
    for (int s = 0; s < std::min(t + L, C); ++s) {
      Floats weight = exponential(load(weights + s * C + t) - max_log);
      store(weights + s * C + t, weight);
      sum += weight;
      squared_sum += weight * weight;
    }
    store(weight_sums + t, sum), store(squared_weight_sums + t, squared_sum);
  }
}

// The final weights, after compute_weights: those at the last token of the chunk.
inline void ChunkedAttention::copy_final_weights(int64_t tokens) {
  if (!call_.has_key_weights) return;
  for (int s = 0; s < tokens; ++s) final_weights[s] = weights[s * C + tokens - 1];
  for (int s = int(tokens); s < C; ++s) final_weights[s] = 0;
  final_carry_factor = carry_factors[tokens - 1], final_max_log_weight = max_log_weights[tokens - 1];
}

}  // namespace QKV_ISA
}  // namespace qkv
