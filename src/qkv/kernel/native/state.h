// The sums over keys that linear attention keeps in place of the keys.
#pragma once
#include <limits>

#include "feature_gradients.h"

namespace qkv {
namespace QKV_ISA {

constexpr float LOG_ZERO = -std::numeric_limits<float>::infinity();

// The sums over a range of keys s with weights m_s and values v_s.  All are divided by exp(log_scale).
struct State {
  explicit State(const Sizes& s)
      : feature_sums(s.phi_rows * s.padded_value), denominator_sums(round_up(s.phi_rows, L)),
        value_sums(s.padded_value) {}
  Buffer feature_sums;      // sum of m_s phi(k_s) (x) v_s [F, E] in panels
  Buffer denominator_sums;  // sum of m_s phi(k_s) [F]
  Buffer value_sums;        // sum of m_s v_s [E]
  float weight_sum = 0, squared_weight_sum = 0;  // sum of m_s, and of m_s^2
  float log_scale = LOG_ZERO;
  double total_log_decay = 0;  // log of the factor by which these keys decay the sums before them
};

// exp(log - max_log), at most 1 also where rounding makes a logarithm larger than the largest.
QKV_INLINE float relative_weight(float log, float max_log) {
  return log == LOG_ZERO ? 0 : std::exp(std::min(log - max_log, 0.0f));
}

// The log weight of a FAVOR+ key from its largest logit and its squared length.  Where the squared length exceeds
// float32 the weight is the smallest possible one and not 0: the key is still there.
QKV_INLINE float favor_log_weight(const Call& call, float max_logit, float squared_length) {
  return std::max(max_logit - call.squared_length_factor * squared_length, -std::numeric_limits<float>::max());
}

inline void copy_state(const Sizes& s, const State& source, State& target) {
  std::memcpy(target.feature_sums, source.feature_sums, size_t(s.phi_rows * s.padded_value) * 4);
  std::memcpy(target.denominator_sums, source.denominator_sums, size_t(s.phi_rows) * 4);
  std::memcpy(target.value_sums, source.value_sums, size_t(s.padded_value) * 4);
  target.weight_sum = source.weight_sum, target.squared_weight_sum = source.squared_weight_sum;
  target.log_scale = source.log_scale, target.total_log_decay = source.total_log_decay;
}

// before: the state before a segment of keys; segment: the sums of the segment alone.  segment becomes the state after
// the segment.
inline void combine_states(const Sizes& s, bool has_key_weights, const State& before, State& segment) {
  const float carry_log = before.log_scale + float(segment.total_log_decay);
  const float max_log = std::max(carry_log, segment.log_scale);
  const float carry = has_key_weights ? relative_weight(carry_log, max_log) : 1;
  const float factor = has_key_weights ? relative_weight(segment.log_scale, max_log) : 1;
  for (int64_t i = 0; i < s.phi_rows * s.padded_value; ++i)
    segment.feature_sums[i] = carry * before.feature_sums[i] + factor * segment.feature_sums[i];
  for (int64_t i = 0; i < s.phi_rows; ++i)
    segment.denominator_sums[i] = carry * before.denominator_sums[i] + factor * segment.denominator_sums[i];
  for (int64_t i = 0; i < s.padded_value; ++i)
    segment.value_sums[i] = carry * before.value_sums[i] + factor * segment.value_sums[i];
  segment.weight_sum = carry * before.weight_sum + factor * segment.weight_sum;
  segment.squared_weight_sum =
      carry * carry * before.squared_weight_sum + factor * factor * segment.squared_weight_sum;
  segment.log_scale = max_log, segment.total_log_decay += before.total_log_decay;
}

// grad_after: the gradient of the sums after a segment; grad_before: the gradient that the segment's own queries give
// to the sums before it.  Adds to grad_before what reaches those sums through the sums after the segment.
inline void add_later_gradient(const Sizes& s, float carry_factor, const State& grad_after, State& grad_before) {
  for (int64_t i = 0; i < s.phi_rows * s.padded_value; ++i)
    grad_before.feature_sums[i] += carry_factor * grad_after.feature_sums[i];
  for (int64_t i = 0; i < s.phi_rows; ++i)
    grad_before.denominator_sums[i] += carry_factor * grad_after.denominator_sums[i];
  for (int64_t i = 0; i < s.padded_value; ++i) grad_before.value_sums[i] += carry_factor * grad_after.value_sums[i];
  grad_before.weight_sum += carry_factor * grad_after.weight_sum;
  grad_before.squared_weight_sum += carry_factor * carry_factor * grad_after.squared_weight_sum;
}

}  // namespace QKV_ISA
}  // namespace qkv
