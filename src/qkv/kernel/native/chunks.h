// What the passes over a sequence have in common: a chunk of queries and keys, and the masses between them.
#pragma once
#include "state.h"

namespace qkv {
namespace QKV_ISA {

constexpr int64_t DEEP = 64;  // rows of sums that are read and added to at a time

// A run of tokens, or of rows.
struct Part {
  int64_t begin, end;
};

// Run `i` of `parts` runs of whole chunks.
inline Part part_of(int64_t tokens, int64_t parts, int64_t i) {
  const int64_t chunks = (tokens + C - 1) / C;
  return {std::min(chunks * i / parts * C, tokens), std::min(chunks * (i + 1) / parts * C, tokens)};
}

class Chunks {
 public:
  explicit Chunks(const Call& call, bool backward = false)
      : call_(call), s_(call), features(call, backward), turned_(2 * up_to(s_.columns, L) * C), queries(s_, turned_),
        keys(s_, turned_ + up_to(s_.columns, L) * C), values(C * s_.values),
        row_(s_.values), seen(C * C), share(C * C), average_(C * s_.values), plain_(s_.values),
        scaled_(PANELS * C * P) {}

  void open(int64_t batch, int64_t head) {
    b = batch, h = head;
    const int64_t at = b * call_.heads + h;
    keep_ = call_.keep ? call_.keep + b * call_.keys : nullptr;
    written_ = call_.written ? call_.written + at * call_.keys : nullptr;
    decay_ = call_.decay ? call_.decay + at * call_.keys : nullptr;
  }

  void begin(State& state) const {
    std::memset(state.sums, 0, size_t(s_.rows * s_.values) * 4);
    std::memset(state.ones, 0, size_t(s_.rows) * 4);
    std::memset(state.plain, 0, size_t(s_.values) * 4);
    state.count = 0, state.squares = 0, state.faded = 0, state.scale = NOTHING;
    if (call_.sums0) take(state, call_.sums0, call_.plain0, call_.scale0);
  }

  void take(State& state, const float* sums, const float* plain, const float* scale) const {
    const int64_t wide = s_.value + 1, at = b * call_.heads + h;
    const float* from = sums + at * s_.outside() * wide;
    for (int64_t f = 0; f < s_.outside(); ++f, from += wide) {
      const int64_t row = s_.row_of(f);
      for (int64_t e = 0; e < s_.value; e += P)
        copy_row(from + e, state.sums + in_panels(row, e, s_.rows), std::min<int64_t>(P, s_.value - e));
      state.ones[row] = from[s_.value];
    }
    const float* own = plain + at * (wide + 1);
    std::memcpy(state.plain, own, size_t(s_.value) * 4);
    state.count = own[s_.value], state.squares = own[wide];
    state.scale = scale ? scale[at] : 0;
  }

  void give(const State& state, float* sums, float* plain, float* scale) const {
    const int64_t wide = s_.value + 1, at = b * call_.heads + h;
    float* to = sums + at * s_.outside() * wide;
    for (int64_t f = 0; f < s_.outside(); ++f, to += wide) {
      const int64_t row = s_.row_of(f);
      for (int64_t e = 0; e < s_.value; e += P)
        copy_row(state.sums + in_panels(row, e, s_.rows), to + e, std::min<int64_t>(P, s_.value - e));
      to[s_.value] = state.ones[row];
    }
    float* own = plain + at * (wide + 1);
    std::memcpy(own, state.plain, size_t(s_.value) * 4);
    own[s_.value] = state.count, own[wide] = state.squares;
    if (scale) scale[at] = state.scale;
  }

  void read_keys(int64_t first, int64_t many) {
    features.map(call_.k, b, h, first, many, keep_from(first), keys);
    read_values(first, many);
  }

  void read_queries(int64_t first, int64_t many) {
    features.map(call_.q, b, h, first, many, nullptr, queries);
  }

  void read_both(int64_t first, int64_t many) {
    features.map_both(b, h, first, many, keep_from(first), queries, keys);
    read_values(first, many);
  }

  // The share of every key at the last token of the chunk, for `absorb`; without causal queries before it.
  void weigh_at_end(const State& state) {
    if (!call_.weighed) return plain_shares(state);
    alignas(64) float logs[C];
    float after = 0;
    for (int s = C - 1; s >= 0; --s) logs[s] = written[s] + after, after += decay[s];
    const float left = state.scale + after;
    last = left;
    for (int s = 0; s < C; ++s) last = std::max(last, logs[s]);
    for (int s = 0; s < C; ++s) at_end[s] = share_of(logs[s], last);
    rest_at_end = share_of(left, last);
  }

  // Shares [s, t] of key s at query t, which is 0 for t < s; what is left of the state; and the masses.
  void weigh(const State& state) {
    if (!call_.weighed) return weigh_all_alike(state);
    const Ints lanes = lane_numbers();
    alignas(64) float so_far[C];
    float left = state.scale;
    for (int t = 0; t < C; ++t) so_far[t] = left += decay[t];
    for (int t = 0; t < C; t += L) {
      Floats fade{}, peak = load(so_far + t);
      for (int s = std::min(t + L, C) - 1; s >= 0; --s) {
        Ints later = all_int(s) < lanes + t;
        fade = later ? fade + (s + 1 < C ? decay[s + 1] : 0) : Floats{};
        Floats log = (all_int(s) <= lanes + t) ? fade + written[s] : all(NOTHING);
        peak = highest(peak, log);
        store(share + s * C + t, log);
      }
      store(top + t, peak);
      peak = peak == NOTHING ? Floats{} : peak;
      Floats sum = exponential(load(so_far + t) - peak);
      store(rest + t, sum);
      Floats square = sum * sum * state.squares;
      sum *= state.count;
      for (int s = 0; s < std::min(t + L, C); ++s) {
        Floats part = exponential(load(share + s * C + t) - peak);
        store(share + s * C + t, part);
        sum += part;
        square += part * part;
      }
      store(count + t, sum), store(squares + t, square);
    }
  }

  // The shares after `weigh` at the last of the chunk's tokens.
  void weigh_last(int64_t many) {
    if (!call_.weighed) return;
    for (int s = 0; s < many; ++s) at_end[s] = share[s * C + many - 1];
    for (int s = int(many); s < C; ++s) at_end[s] = 0;
    rest_at_end = rest[many - 1], last = top[many - 1];
  }

  // seen[s, t] = share * phi(k_s).phi(q_t), and the denominators of the queries.
  void score(const State& state, int64_t many) {
    for (int t = 0; t < C; t += P)
      for (int s = 0; s < std::min<int>(t + P, int(many)); s += TALL) {
        Tile tile;
        tile.clear();
        if (s < t + L) tile.template add<1, C>(keys.phi + s, queries.phi + t, C, s_.rows);
        else tile.template add<1, C, 1>(keys.phi + s, queries.phi + t, C, s_.rows);
        tile.write(seen + s * C + t, C);
      }
    read_ones(state);
    for (int t = 0; t < C; t += L) {
      Floats sum = load(total + t) * load(rest + t);
      for (int s = 0; s < std::min<int>(t + L, int(many)); ++s) {
        Floats part = load(seen + s * C + t) * load(share + s * C + t);
        store(seen + s * C + t, part);
        sum += part;
      }
      store(total + t, sum);
    }
  }

  // The denominators of queries that see no key of their own chunk.
  void score_state(const State& state) {
    read_ones(state);
    for (int t = 0; t < C; t += L) {
      store(count + t, all(state.count)), store(squares + t, all(state.squares));
      store(rest + t, all(1)), store(top + t, all(state.scale));
    }
  }

  void run(State& state, int64_t first, int64_t many);
  void read(const State& state, int64_t first, int64_t many);
  void absorb(State& state, int64_t many);
  void add(State& state, int64_t many);

  const Call& call_;
  Sizes s_;
  Features features;
  Buffer turned_;
  Mapped queries, keys;
  Buffer values, row_, seen, share;
  alignas(64) float kept[C], written[C], decay[C] = {}, total[C], count[C], squares[C], top[C], rest[C], at_end[C];
  float rest_at_end = 1, last = 0;
  int64_t b = 0, h = 0;

 protected:
  void divide();
  template <int N>
  void read_panels(const State& state, int64_t e, Part part, int64_t many, bool own);
  void write(const State& state, int64_t first, int64_t many, bool own);
  void sum_plain(const State& state, int64_t t, bool own);
  template <int N>
  void scale_panels(const float* panels, int64_t many);
  template <int N>
  void absorb_panels(State& state, int64_t e, Part part, int64_t many);

  // `body(panels, column, rows)` for blocks of the sums that stay in the nearest cache beside what meets them.
  template <typename F>
  QKV_INLINE void by_block(F&& body) const {
    by_panels(s_.values, [&](auto panels, int64_t e) {
      for (int64_t f = 0; f < s_.rows; f += DEEP) body(panels, e, Part{f, std::min(f + DEEP, s_.rows)});
    });
  }

  void absorb_rest(State& state, int64_t many);

  // total = phi(q).ones, in independent sums, for one would wait for itself.
  void read_ones(const State& state) {
    for (int t = 0; t < C; t += P) {
      Floats sum[4][WIDE] = {};
      for (int64_t f = 0; f < s_.rows; f += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < WIDE; ++j)
            sum[i][j] += load(queries.phi + (f + i) * C + t + j * L) * state.ones[f + i];
      for (int j = 0; j < WIDE; ++j)
        store(total + t + j * L, (sum[0][j] + sum[1][j]) + (sum[2][j] + sum[3][j]));
    }
  }

  const uint8_t* keep_from(int64_t first) const { return keep_ ? keep_ + first : nullptr; }

  void read_values(int64_t first, int64_t many) {
    const uint8_t* keep = keep_from(first);
    ahead_.aim(call_.v, b, h, first + C, s_.value, call_.half);
    for (int64_t s = 0; s < C; ++s) {
      const bool real = s < many && (!keep || keep[s]);
      kept[s] = real;
      read_value(real ? row_at(call_.v, b, h, first + s, call_.half) : nullptr, s);
    }
    if (call_.weighed) read_masses(first, many);
  }

  // Row s of the values' panels; zeros where there is none.
  QKV_INLINE void read_value(const char* from, int64_t s) {
    const float* row = row_;
    if (!from) std::memset(row_, 0, size_t(s_.values) * 4);
    else if (call_.half || s_.value < s_.values) read_row(from, call_.half, row_, s_.value);
    else row = reinterpret_cast<const float*>(from);
    for (int64_t e = 0; e < s_.values; e += P)
      for (int j = 0; j < P; j += L) store(values + e * C + s * P + j, load(row + e + j));
  }

  void read_masses(int64_t first, int64_t many) {
    for (int64_t s = 0; s < C; ++s) {
      written[s] = kept[s] == 0 ? NOTHING : written_ ? written_[first + s] : 0;
      if (call_.map == FAVOR && kept[s] != 0) written[s] += key_mass(call_, keys.peak[s], keys.square[s]);
      decay[s] = s < many && decay_ ? decay_[first + s] : 0;
    }
  }

  void plain_shares(const State& state) {
    std::memcpy(at_end, kept, sizeof kept);
    rest_at_end = 1, last = state.scale;
  }

  void weigh_all_alike(const State& state) {
    plain_shares(state);
    const Ints lanes = lane_numbers();
    float sum = state.count, square = state.squares;
    for (int t = 0; t < C; ++t) {
      count[t] = sum += kept[t], squares[t] = square += kept[t];
      rest[t] = 1, top[t] = state.scale;
    }
    bool real = true;
    for (int s = 0; s < C; ++s) real = real && kept[s] == 1;
    if (real && alike_) return;
    for (int t = 0; t < C; t += L)
      for (int s = 0; s < std::min(t + L, C); ++s)
        store(share + s * C + t, (all_int(s) <= lanes + t) ? all(kept[s]) : Floats{});
    alike_ = real;
  }

  bool alike_ = false;  // share is that of a chunk of real keys already
  Buffer average_, plain_, scaled_;
  alignas(64) float inverse_[C], fill_[C];
  Ahead ahead_, place_;  // the next values, and where this chunk's averages go
  const uint8_t* keep_ = nullptr;
  const float *written_ = nullptr, *decay_ = nullptr;
};

}  // namespace QKV_ISA
}  // namespace qkv
