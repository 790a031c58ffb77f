// The recurrent form of linear attention: one token after the other, from the caller's state into the next one.  For
// the few tokens of a decoding step this is faster than packing a chunk.
#pragma once
#include "forward.h"

namespace qkv {
namespace QKV_ISA {

class TokenSteps {
 public:
  explicit TokenSteps(const Call& call)
      : call_(call), s_(call), sum_width_(s_.value + 1), x_(round_up(s_.width, L)), logits_(round_up(s_.features, L)),
        sines_(round_up(s_.features, L)), cosines_(round_up(s_.features, L)), query_(s_.feature_count()),
        key_(s_.feature_count()), value_(sum_width_), average_(sum_width_) {}

  // All tokens of one head.
  void process_head(int64_t batch, int64_t head) {
    b_ = batch, h_ = head;
    const int64_t index = b_ * call_.heads + h_;
    const int64_t size = s_.feature_count() * sum_width_;
    const float* plain = call_.initial_plain_sums ? call_.initial_plain_sums + index * (sum_width_ + 1) : nullptr;
    const float* sums = call_.initial_feature_sums ? call_.initial_feature_sums + index * size : nullptr;
    float* next_plain = call_.final_plain_sums + index * (sum_width_ + 1);
    float* next_sums = call_.final_feature_sums + index * size;
    float log_scale = !sums ? LOG_ZERO : call_.initial_log_scale ? call_.initial_log_scale[index] : 0;
    for (int64_t t = 0; t < call_.queries; ++t, sums = next_sums, plain = next_plain) {
      read_token(t, log_scale);
      accumulate_plain(plain, next_plain);
      if (sums) accumulate_and_read<true>(sums, next_sums);
      else accumulate_and_read<false>(nullptr, next_sums);
      write_average(t, index * call_.queries + t, next_plain, log_scale);
    }
    call_.final_log_scale[index] = log_scale;
  }

 private:
  // The features of query and key, the value, and the factors of the state and of the new key.
  void read_token(int64_t t, float& log_scale) {
    float max_logit = 0, squared_length = 0;
    map(call_.q, t, query_, max_logit, squared_length);
    const bool is_real = !call_.keep || call_.keep[b_ * call_.keys + t];
    key_factor_ = is_real, carry_factor_ = 1;
    std::memset(value_, 0, size_t(sum_width_) * 4);
    if (is_real) {
      map(call_.k, t, key_, max_logit, squared_length);
      read_row(row_address(call_.v, b_, h_, t, call_.is_bfloat16), call_.is_bfloat16, value_, s_.value);
      value_[s_.value] = 1;
    } else {
      std::memset(key_, 0, size_t(s_.feature_count()) * 4);
    }
    if (!call_.has_key_weights) return;
    const int64_t index = (b_ * call_.heads + h_) * call_.keys + t;
    float log_weight = !is_real ? LOG_ZERO : call_.log_weights ? call_.log_weights[index] : 0;
    if (is_real && call_.map == FAVOR) log_weight += favor_log_weight(call_, max_logit, squared_length);
    const float carry_log = log_scale + (call_.log_decay ? call_.log_decay[index] : 0);
    log_scale = std::max(carry_log, log_weight);
    carry_factor_ = relative_weight(carry_log, log_scale), key_factor_ = relative_weight(log_weight, log_scale);
  }

  // phi(x_t) [F], the largest logit and the squared length.
  void map(const StridedTensor& source, int64_t t, float* phi, float& max_logit, float& squared_length) {
    read_row(row_address(source, b_, h_, t, call_.is_bfloat16), call_.is_bfloat16, x_, s_.width);
    Floats squares{};
    for (int64_t d = 0; d < s_.width; d += L) squares += load(x_ + d) * load(x_ + d);
    squared_length = 0;
    for (int i = 0; i < L; ++i) squared_length += squares[i];
    const Floats feature_scale = broadcast(call_.map == ELU ? 1.0f : 1.0f / std::sqrt(float(s_.features)));
    if (call_.map != ELU) project(call_.unit_length ? 1 / std::max(std::sqrt(squared_length), MIN_LENGTH) : 1);
    max_logit = call_.map == FAVOR ? *std::max_element(&logits_[0], &logits_[s_.features]) : 0;
    const bool needs_exact = call_.map == GAUSSIAN && has_large_angles();
    for (int64_t r = 0; r < s_.features; r += L) {
      const Floats x = load((call_.map == ELU ? x_ : logits_) + r), zero{};
      Floats sine, cosine{};
      if (needs_exact) sin_cos_any_angle(x, feature_scale, sine, cosine);
      else if (call_.map == GAUSSIAN) sin_cos(x, feature_scale, sine, cosine);
      else if (call_.map == ARCCOS) sine = vector_max(zero, x) * feature_scale;
      else if (call_.map == FAVOR) sine = exponential(x - max_logit) * feature_scale;
      else sine = exponential(vector_min(zero, x)) + vector_max(zero, x);
      store(sines_ + r, sine), store(cosines_ + r, cosine);
    }
    std::memcpy(phi, sines_, size_t(s_.features) * 4);
    if (s_.has_sin_and_cos) std::memcpy(phi + s_.features, cosines_, size_t(s_.features) * 4);
  }

  // Whether a logit is an angle that sin_cos does not support.
  bool has_large_angles() const {
    Floats largest{};
    for (int64_t r = 0; r < s_.features; r += L) {
      const Floats x = load(logits_ + r);
      largest = vector_max(largest, vector_max(x, -x));
    }
    for (int i = 0; i < L; ++i)
      if (largest[i] > MAX_FAST_ANGLE) return true;
    return false;
  }

  // logits_ [R] = scale * projection [R, D] @ x [D], L rows at a time.
  void project(float scale) {
    const float* projection = call_.projection + h_ * s_.features * s_.width;
    for (int64_t r = 0; r < s_.features; r += L) {
      Floats sum[L] = {};
      alignas(64) float remainder[L] = {};
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        const float* row = projection + std::min(r + i, s_.features - 1) * s_.width;
        int64_t d = 0;
        for (; d + L <= s_.width; d += L) sum[i] += load(row + d) * load(x_ + d);
        for (; d < s_.width; ++d) remainder[i] += row[d] * x_[d];
      }
      store(logits_ + r, (sum_rows(sum) + load(remainder)) * scale);
    }
  }

  // plain [E+2]: the weighted sums of [v, 1] and of the squared weights.
  void accumulate_plain(const float* plain, float* next) const {
    for (int64_t e = 0; e < sum_width_; ++e)
      next[e] = (plain ? carry_factor_ * plain[e] : 0) + key_factor_ * value_[e];
    next[sum_width_] =
        (plain ? carry_factor_ * carry_factor_ * plain[sum_width_] : 0) + key_factor_ * key_factor_;
  }

  // next [F, E+1] = carry_factor * sums + key_factor * phi(k) [F, 1] @ [v, 1] [1, E+1], and average_ [E+1] = phi(q) [F]
  // @ next [F, E+1].  A block of rows at a time, so that the other columns of these rows are still in the first-level
  // cache.
  template <bool HAS_SUMS>
  void accumulate_and_read(const float* sums, float* next) {
    constexpr int64_t ROWS = 32;
    std::memset(average_, 0, size_t(sum_width_) * 4);
    for (int64_t f = 0; f < s_.feature_count(); f += ROWS) {
      const int64_t end = std::min(f + ROWS, s_.feature_count());
      int64_t e = 0;
      for (; e + 4 * L <= s_.value; e += 4 * L) process_columns<HAS_SUMS, 4>(sums, next, e, f, end);
      for (; e + L <= s_.value; e += L) process_columns<HAS_SUMS, 1>(sums, next, e, f, end);
      if (e < s_.value)
        for (; e < sum_width_; ++e) process_column<HAS_SUMS>(sums, next, e, f, end);
    }
  }

  // VECTORS vectors of columns; the last ones of the values include the column of ones, which is next to them.
  template <bool HAS_SUMS, int VECTORS>
  QKV_INLINE void process_columns(const float* sums, float* next, int64_t e, int64_t f, int64_t end) {
    if (e + VECTORS * L == s_.value) process_vectors<HAS_SUMS, VECTORS, true>(sums, next, e, f, end);
    else process_vectors<HAS_SUMS, VECTORS, false>(sums, next, e, f, end);
  }

  template <bool HAS_SUMS, int VECTORS, bool HAS_ONES>
  QKV_INLINE void process_vectors(const float* sums, float* next, int64_t e, int64_t f, int64_t end) {
    // Local copies: a store to `next` might change a member as far as the compiler knows, and it would read the members
    // again for every row.
    const float *key = key_, *query = query_;
    const float carry_factor = carry_factor_, key_factor = key_factor_;
    const int64_t width = sum_width_, ones = s_.value;
    Floats value[VECTORS], sum[VECTORS];
    for (int j = 0; j < VECTORS; ++j) value[j] = load(value_ + e + j * L), sum[j] = load(average_ + e + j * L);
    float denominator = average_[ones];
    for (; f < end; ++f) {
      const float key_feature = key_factor * key[f], query_feature = query[f];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) {
        const int64_t index = f * width + e + j * L;
        Floats row = value[j] * key_feature;
        if (HAS_SUMS) row += load(sums + index) * carry_factor;
        store(next + index, row);
        sum[j] += row * query_feature;
      }
      if (!HAS_ONES) continue;
      const float feature_sum = (HAS_SUMS ? carry_factor * sums[f * width + ones] : 0) + key_feature;
      next[f * width + ones] = feature_sum, denominator += feature_sum * query_feature;
    }
    for (int j = 0; j < VECTORS; ++j) store(average_ + e + j * L, sum[j]);
    average_[ones] = denominator;
  }

  template <bool HAS_SUMS>
  QKV_INLINE void process_column(const float* sums, float* next, int64_t e, int64_t f, int64_t end) {
    float sum = average_[e];
    for (; f < end; ++f) {
      const int64_t index = f * sum_width_ + e;
      next[index] = (HAS_SUMS ? carry_factor_ * sums[index] : 0) + key_factor_ * key_[f] * value_[e];
      sum += query_[f] * next[index];
    }
    average_[e] = sum;
  }

  void write_average(int64_t t, int64_t row, const float* plain, float log_scale) {
    const float denominator = average_[s_.value], weight_sum = plain[s_.value], squared_weight_sum = plain[sum_width_];
    const float deficit = compute_deficit(call_.floor, squared_weight_sum, denominator);
    const float inverse = weight_sum > 0 ? 1 / (denominator + deficit) : 1;
    const float fill = weight_sum > 0 ? deficit / weight_sum : 0;
    for (int64_t e = 0; e < s_.value; ++e) average_[e] = (average_[e] + fill * plain[e]) * inverse;
    write_row(average_, call_.is_bfloat16, row_address(call_.out, b_, h_, t, call_.is_bfloat16), s_.value);
    if (!call_.denominators) return;
    call_.denominators[row] = denominator, call_.weight_sums[row] = weight_sum;
    call_.squared_weight_sums[row] = squared_weight_sum, call_.max_log_weights[row] = log_scale;
  }

  const Call& call_;
  Sizes s_;
  int64_t sum_width_, b_ = 0, h_ = 0;  // sum_width_: E + 1
  Buffer x_, logits_, sines_, cosines_, query_, key_, value_, average_;
  float key_factor_ = 1, carry_factor_ = 1;
};

}  // namespace QKV_ISA
}  // namespace qkv
