// One token after the other, straight from the caller's state into the next one: for the few tokens of a decoding
// step, where packing a chunk would take longer than its work.
#pragma once
#include "forward.h"

namespace qkv {
namespace QKV_ISA {

class Steps {
 public:
  explicit Steps(const Call& call)
      : call_(call), s_(call), wide_(s_.value + 1), x_(up_to(s_.width, L)), logit_(up_to(s_.features, L)),
        sine_(up_to(s_.features, L)), cosine_(up_to(s_.features, L)), query_(s_.outside()), key_(s_.outside()),
        value_(wide_), sum_(wide_) {}

  void run(int64_t batch, int64_t head) {
    b_ = batch, h_ = head;
    const int64_t at = b_ * call_.heads + h_;
    const float* plain = call_.plain0 ? call_.plain0 + at * (wide_ + 1) : nullptr;
    const float* sums = call_.sums0 ? call_.sums0 + at * s_.outside() * wide_ : nullptr;
    float* plain_after = call_.plain + at * (wide_ + 1);
    float* sums_after = call_.sums + at * s_.outside() * wide_;
    float scale = !sums ? NOTHING : call_.scale0 ? call_.scale0[at] : 0;
    for (int64_t t = 0; t < call_.queries; ++t, sums = sums_after, plain = plain_after) {
      read(t, scale);
      add_plain(plain, plain_after);
      if (sums) add_and_read<true>(sums, sums_after);
      else add_and_read<false>(nullptr, sums_after);
      write(t, at * call_.queries + t, plain_after, scale);
    }
    call_.scale[at] = scale;
  }

 private:
  // The features of query and key, the value, and what old sums and the new key are multiplied by.
  void read(int64_t t, float& scale) {
    float peak = 0, square = 0;
    map(call_.q, t, query_, peak, square);
    const bool real = !call_.keep || call_.keep[b_ * call_.keys + t];
    own_ = real, rest_ = 1;
    std::memset(value_, 0, size_t(wide_) * 4);
    if (real) {
      map(call_.k, t, key_, peak, square);
      read_row(row_at(call_.v, b_, h_, t, call_.half), call_.half, value_, s_.value);
      value_[s_.value] = 1;
    } else {
      std::memset(key_, 0, size_t(s_.outside()) * 4);
    }
    if (!call_.weighed) return;
    const int64_t at = (b_ * call_.heads + h_) * call_.keys + t;
    float written = !real ? NOTHING : call_.written ? call_.written[at] : 0;
    if (real && call_.map == FAVOR) written += key_mass(call_, peak, square);
    const float left = scale + (call_.decay ? call_.decay[at] : 0);
    scale = std::max(left, written);
    rest_ = share_of(left, scale), own_ = share_of(written, scale);
  }

  void map(const Rows& from, int64_t t, float* phi, float& peak, float& square) {
    read_row(row_at(from, b_, h_, t, call_.half), call_.half, x_, s_.width);
    Floats squares{};
    for (int64_t d = 0; d < s_.width; d += L) squares += load(x_ + d) * load(x_ + d);
    square = 0;
    for (int i = 0; i < L; ++i) square += squares[i];
    const Floats amplitude = all(call_.map == ELU ? 1.0f : 1.0f / std::sqrt(float(s_.features)));
    if (call_.map != ELU) project(call_.unit ? 1 / std::max(std::sqrt(square), SHORTEST) : 1);
    peak = call_.map == FAVOR ? *std::max_element(&logit_[0], &logit_[s_.features]) : 0;
    const bool large = call_.map == GAUSSIAN && has_large_angles();
    for (int64_t r = 0; r < s_.features; r += L) {
      const Floats x = load((call_.map == ELU ? x_ : logit_) + r), none{};
      Floats sine, cosine{};
      if (large) sin_cos_of_any(x, amplitude, sine, cosine);
      else if (call_.map == GAUSSIAN) sin_cos(x, amplitude, sine, cosine);
      else if (call_.map == ARCCOS) sine = highest(none, x) * amplitude;
      else if (call_.map == FAVOR) sine = exponential(x - peak) * amplitude;
      else sine = exponential(lowest(none, x)) + highest(none, x);
      store(sine_ + r, sine), store(cosine_ + r, cosine);
    }
    std::memcpy(phi, sine_, size_t(s_.features) * 4);
    if (s_.paired) std::memcpy(phi + s_.features, cosine_, size_t(s_.features) * 4);
  }

  // Whether a logit is an angle that `sin_cos` is not made for.
  bool has_large_angles() const {
    Floats most{};
    for (int64_t r = 0; r < s_.features; r += L) {
      const Floats x = load(logit_ + r);
      most = highest(most, highest(x, -x));
    }
    for (int i = 0; i < L; ++i)
      if (most[i] > LARGEST_ANGLE) return true;
    return false;
  }

  // logit_ = scale * matrix x, as many rows side by side as a vector has lanes.
  void project(float scale) {
    const float* matrix = call_.matrix + h_ * s_.features * s_.width;
    for (int64_t r = 0; r < s_.features; r += L) {
      Floats sum[L] = {};
      alignas(64) float rest[L] = {};
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        const float* row = matrix + std::min(r + i, s_.features - 1) * s_.width;
        int64_t d = 0;
        for (; d + L <= s_.width; d += L) sum[i] += load(row + d) * load(x_ + d);
        for (; d < s_.width; ++d) rest[i] += row[d] * x_[d];
      }
      store(logit_ + r, (row_sums(sum) + load(rest)) * scale);
    }
  }

  void add_plain(const float* from, float* to) const {
    for (int64_t e = 0; e < wide_; ++e) to[e] = (from ? rest_ * from[e] : 0) + own_ * value_[e];
    to[wide_] = (from ? rest_ * rest_ * from[wide_] : 0) + own_ * own_;
  }

  // to = rest * from + own * phi(k) (x) [v, 1] and sum_ = phi(q) to, some rows at a time, so that their further
  // columns are found in the nearest cache.
  template <bool BEFORE>
  void add_and_read(const float* from, float* to) {
    constexpr int64_t ROWS = 32;
    std::memset(sum_, 0, size_t(wide_) * 4);
    for (int64_t f = 0; f < s_.outside(); f += ROWS) {
      const int64_t end = std::min(f + ROWS, s_.outside());
      int64_t e = 0;
      for (; e + 4 * L <= s_.value; e += 4 * L) add_columns<BEFORE, 4>(from, to, e, f, end);
      for (; e + L <= s_.value; e += L) add_columns<BEFORE, 1>(from, to, e, f, end);
      if (e < s_.value)
        for (; e < wide_; ++e) add_column<BEFORE>(from, to, e, f, end);
    }
  }

  // So many vectors of columns, and with the last of them the column of ones, whose rows are then at hand.
  template <bool BEFORE, int MANY>
  QKV_INLINE void add_columns(const float* from, float* to, int64_t e, int64_t f, int64_t end) {
    if (e + MANY * L == s_.value) add_vectors<BEFORE, MANY, true>(from, to, e, f, end);
    else add_vectors<BEFORE, MANY, false>(from, to, e, f, end);
  }

  template <bool BEFORE, int MANY, bool ONES>
  QKV_INLINE void add_vectors(const float* from, float* to, int64_t e, int64_t f, int64_t end) {
    // What is stored might be a member, for all that the compiler knows: it would read them again for every row.
    const float *key = key_, *query = query_;
    const float rest = rest_, own = own_;
    const int64_t wide = wide_, ones = s_.value;
    Floats value[MANY], sum[MANY];
    for (int j = 0; j < MANY; ++j) value[j] = load(value_ + e + j * L), sum[j] = load(sum_ + e + j * L);
    float total = sum_[ones];
    for (; f < end; ++f) {
      const float write = own * key[f], read = query[f];
#pragma GCC unroll 4
      for (int j = 0; j < MANY; ++j) {
        const int64_t at = f * wide + e + j * L;
        Floats row = value[j] * write;
        if (BEFORE) row += load(from + at) * rest;
        store(to + at, row);
        sum[j] += row * read;
      }
      if (!ONES) continue;
      const float one = (BEFORE ? rest * from[f * wide + ones] : 0) + write;
      to[f * wide + ones] = one, total += one * read;
    }
    for (int j = 0; j < MANY; ++j) store(sum_ + e + j * L, sum[j]);
    sum_[ones] = total;
  }

  template <bool BEFORE>
  QKV_INLINE void add_column(const float* from, float* to, int64_t e, int64_t f, int64_t end) {
    float sum = sum_[e];
    for (; f < end; ++f) {
      const int64_t at = f * wide_ + e;
      to[at] = (BEFORE ? rest_ * from[at] : 0) + own_ * key_[f] * value_[e];
      sum += query_[f] * to[at];
    }
    sum_[e] = sum;
  }

  void write(int64_t t, int64_t row, const float* plain, float scale) {
    const float total = sum_[s_.value], count = plain[s_.value], squares = plain[wide_];
    const float gap = gap_of(call_.floor, squares, total);
    const float inverse = count > 0 ? 1 / (total + gap) : 1, fill = count > 0 ? gap / count : 0;
    for (int64_t e = 0; e < s_.value; ++e) sum_[e] = (sum_[e] + fill * plain[e]) * inverse;
    write_row(sum_, call_.half, row_at(call_.out, b_, h_, t, call_.half), s_.value);
    if (!call_.total) return;
    call_.total[row] = total, call_.count[row] = count, call_.squares[row] = squares, call_.top[row] = scale;
  }

  const Call& call_;
  Sizes s_;
  int64_t wide_, b_ = 0, h_ = 0;
  Buffer x_, logit_, sine_, cosine_, query_, key_, value_, sum_;
  float own_ = 1, rest_ = 1;
};

}  // namespace QKV_ISA
}  // namespace qkv
