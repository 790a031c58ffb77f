// Sums of keys chunk by chunk, and what queries read from them.
#pragma once
#include "chunks.h"

namespace qkv {
namespace QKV_ISA {

// Where a sum is under the noise of such a sum, floor * sqrt(squares), the gap is filled by the masses.
inline float gap_of(float floor, float squares, float total) {
  return std::max(floor * std::sqrt(squares > 0 ? squares : 1) - total, 0.0f);
}

// out = (sums + gap * plain / count) / (total + gap)
inline void Chunks::divide() {
  for (int t = 0; t < C; ++t) {
    const float gap = gap_of(call_.floor, squares[t], total[t]);
    inverse_[t] = count[t] > 0 ? 1 / (total[t] + gap) : 1;
    fill_[t] = count[t] > 0 ? gap / count[t] * inverse_[t] : 0;
  }
}

// Columns e ... of the averages; `own`: the queries also see keys of this chunk.
template <int N>
inline void Chunks::read_panels(const State& state, int64_t e, Part part, int64_t many, bool own) {
  constexpr int ROWS = TALL / N;
  const float* sums = state.sums + e * s_.rows + part.begin * P;
  for (int64_t t = 0; t < many; t += ROWS) {
    Broad<N> tile;
    float* place = average_ + t * s_.values + e;
    if (part.begin == 0) tile.clear();
    else tile.read(place, int(s_.values), P);
    tile.template add<1, C>(queries.phi + part.begin * C + t, sums, P, part.end - part.begin, s_.rows * P);
    if (part.end == s_.rows) {
      if (own) {
        if (call_.weighed) tile.scale_rows(rest + t);
        tile.template add<1, C>(seen + t, values + e * C, P, std::min(t + ROWS, many), C * P);
      }
      tile.scale_rows(inverse_ + t);
    }
    tile.write(place, int(s_.values), P);
  }
}

inline void Chunks::write(const State& state, int64_t first, int64_t many, bool own) {
  for (int64_t t = 0; t < many; ++t) {
    float* row = average_ + t * s_.values;
    if (fill_[t] > 0) {
      sum_plain(state, t, own);
      for (int64_t e = 0; e < s_.value; ++e) row[e] += fill_[t] * plain_[e];
    }
    write_row(row, call_.half, row_at(call_.out, b, h, first + t, call_.half), s_.value);
  }
}

// plain_ = the sum of the values that query t sees, by their masses.
inline void Chunks::sum_plain(const State& state, int64_t t, bool own) {
  const float left = own ? rest[t] : 1;
  for (int64_t e = 0; e < s_.values; e += P) {
    for (int j = 0; j < P; ++j) plain_[e + j] = left * state.plain[e + j];
    if (!own) continue;
    for (int64_t s = 0; s <= t; ++s)
      for (int j = 0; j < P; ++j) plain_[e + j] += share[s * C + t] * values[e * C + s * P + j];
  }
}

// scaled_ = the values of these panels, each key's times its share at the end.
template <int N>
inline void Chunks::scale_panels(const float* panels, int64_t many) {
  for (int n = 0; n < N; ++n)
    for (int s = 0; s < many; ++s)
      for (int64_t i = n * C * P + s * P, j = 0; j < P; j += L)
        store(scaled_ + i + j, load(panels + i + j) * at_end[s]);
}

template <int N>
inline void Chunks::absorb_panels(State& state, int64_t e, Part part, int64_t many) {
  constexpr int ROWS = TALL / N;
  const float* panels = values + e * C;
  if (call_.weighed) {
    if (part.begin == 0) scale_panels<N>(panels, many);
    panels = scaled_;
  }
  const int64_t share = C * ROWS / s_.rows + 1;
  for (int64_t f = part.begin; f < part.end; f += ROWS) {
    Broad<N> tile;
    float* place = state.sums + e * s_.rows + f * P;
    tile.read(place, P, s_.rows * P);
    if (call_.weighed) tile.scale(rest_at_end);
    tile.template add<C, 1>(keys.phi + f * C, panels, P, many, C * P);
    tile.write(place, P, s_.rows * P);
    ahead_.fetch(share);
    place_.fetch<1>(share);
  }
}

// What has no columns of its own, after the panels.
inline void Chunks::absorb_rest(State& state, int64_t many) {
  for (int64_t e = 0; e < s_.values; e += L) {
    const float* panel = values + in_panels(0, e, C);
    Floats sum[4] = {load(state.plain + e) * rest_at_end};
    for (int s = 0; s < C; s += 4)
      for (int i = 0; i < 4; ++i) sum[i] += load(panel + (s + i) * P) * at_end[s + i];
    store(state.plain + e, (sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  for (int64_t f = 0; f < s_.rows; f += L) {
    Floats row[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      row[i] = load(keys.phi + (f + i) * C) * load(at_end);
      for (int t = L; t < C; t += L) row[i] += load(keys.phi + (f + i) * C + t) * load(at_end + t);
    }
    store(state.ones + f, load(state.ones + f) * rest_at_end + row_sums(row));
  }
  float sum = 0, square = 0;
  for (int s = 0; s < C; ++s) sum += at_end[s], square += at_end[s] * at_end[s];
  if (call_.weighed)
    for (int s = 0; s < many; ++s) state.faded += decay[s];
  state.count = state.count * rest_at_end + sum;
  state.squares = state.squares * rest_at_end * rest_at_end + square;
  state.scale = last;
}

// Queries and keys of a chunk one after the other; panels of the sums are read and then added to while they are
// in the cache.
inline void Chunks::run(State& state, int64_t first, int64_t many) {
  weigh(state);
  score(state, many);
  place_.aim(call_.out, b, h, first, s_.value, call_.half);
  weigh_last(many);
  divide();
  by_block([&](auto panels, int64_t e, Part part) {
    read_panels<panels>(state, e, part, many, true);
    absorb_panels<panels>(state, e, part, many);
  });
  write(state, first, many, true);
  absorb_rest(state, many);
}

inline void Chunks::read(const State& state, int64_t first, int64_t many) {
  score_state(state);
  divide();
  by_block([&](auto panels, int64_t e, Part part) { read_panels<panels>(state, e, part, many, false); });
  write(state, first, many, false);
}

inline void Chunks::absorb(State& state, int64_t many) {
  weigh_at_end(state);
  add(state, many);
}

// The state after these keys, whose shares at the end are known.
inline void Chunks::add(State& state, int64_t many) {
  by_block([&](auto panels, int64_t e, Part part) { absorb_panels<panels>(state, e, part, many); });
  absorb_rest(state, many);
}

}  // namespace QKV_ISA
}  // namespace qkv
