// Sums of keys chunk by chunk, and what queries read from them.
#pragma once
#include "features.h"

namespace qkv {
namespace QKV_ISA {

// What a run of keys adds up to: sums [rows, values] in panels, the same with [1] for values, the masses
// without features, the log of what all are divided by, and how much the run lets fade what came before it.
struct State {
  explicit State(const Sizes& s)
      : sums(s.rows * s.values), ones(up_to(s.rows, L)), plain(s.values) {}
  Buffer sums, ones, plain;
  float count = 0, scale = NOTHING;
  double faded = 0;
};

QKV_INLINE float share_of(float log, float top) { return log == NOTHING ? 0 : std::exp(log - top); }

class Chunks {
 public:
  explicit Chunks(const Call& call, bool backward = false)
      : call_(call), s_(call), features(call, backward), queries(s_), keys(s_), values(C * s_.values),
        row_(s_.values), seen(C * C), share(C * C), average_(C * s_.values), plain_(s_.values),
        scaled_(C * P) {}

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
    state.count = 0, state.faded = 0, state.scale = NOTHING;
    if (call_.sums0) take(state, call_.sums0, call_.plain0, call_.scale0);
  }

  void take(State& state, const float* sums, const float* plain, const float* scale) const {
    const int64_t wide = s_.value + 1, at = b * call_.heads + h;
    const float* from = sums + at * s_.outside() * wide;
    for (int64_t f = 0; f < s_.outside(); ++f, from += wide) {
      const int64_t row = s_.row_of(f);
      for (int64_t e = 0; e < s_.value; ++e) state.sums[in_panels(row, e, s_.rows)] = from[e];
      state.ones[row] = from[s_.value];
    }
    std::memcpy(state.plain, plain + at * wide, size_t(s_.value) * 4);
    state.count = plain[at * wide + s_.value];
    state.scale = scale ? scale[at] : 0;
  }

  void give(const State& state, float* sums, float* plain, float* scale) const {
    const int64_t wide = s_.value + 1, at = b * call_.heads + h;
    float* to = sums + at * s_.outside() * wide;
    for (int64_t f = 0; f < s_.outside(); ++f, to += wide) {
      const int64_t row = s_.row_of(f);
      for (int64_t e = 0; e < s_.value; ++e) to[e] = state.sums[in_panels(row, e, s_.rows)];
      to[s_.value] = state.ones[row];
    }
    std::memcpy(plain + at * wide, state.plain, size_t(s_.value) * 4);
    plain[at * wide + s_.value] = state.count;
    if (scale) scale[at] = state.scale;
  }

  void read_keys(int64_t first, int64_t many) {
    const uint8_t* keep = keep_ ? keep_ + first : nullptr;
    features.map(call_.k, b, h, first, many, keep, keys);
    ahead_.aim(call_.v, b, h, first + C, s_.value, call_.half);
    for (int64_t s = 0; s < C; ++s) {
      const bool real = s < many && (!keep || keep[s]);
      kept[s] = real;
      read_value(real ? row_at(call_.v, b, h, first + s, call_.half) : nullptr, s);
    }
    if (call_.weighed) read_masses(first, many);
  }

  void read_queries(int64_t first, int64_t many) {
    features.map(call_.q, b, h, first, many, nullptr, queries);
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
      sum *= state.count;
      for (int s = 0; s < std::min(t + L, C); ++s) {
        Floats part = exponential(load(share + s * C + t) - peak);
        store(share + s * C + t, part);
        sum += part;
      }
      store(count + t, sum);
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
      store(count + t, all(state.count));
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
  Mapped queries, keys;
  Buffer values, row_, seen, share;
  alignas(64) float kept[C], written[C], decay[C] = {}, total[C], count[C], top[C], rest[C], at_end[C];
  float rest_at_end = 1, last = 0;
  int64_t b = 0, h = 0;

 protected:
  void divide();
  void read_panel(const State& state, int64_t e, int64_t many, bool own);
  void write(const State& state, int64_t first, int64_t many, bool own);
  void sum_plain(const State& state, int64_t t, bool own);
  void absorb_panel(State& state, int64_t e, int64_t many);
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
      if (call_.map == FAVOR && kept[s] != 0) written[s] += keys.peak[s] - call_.square * keys.square[s];
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
    float sum = state.count;
    for (int t = 0; t < C; ++t) count[t] = sum += kept[t], rest[t] = 1, top[t] = state.scale;
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
  Ahead ahead_;
  const uint8_t* keep_ = nullptr;
  const float *written_ = nullptr, *decay_ = nullptr;
};

// out = (sums + gap * plain / count) / (total + gap)
inline void Chunks::divide() {
  for (int t = 0; t < C; ++t) {
    const float gap = std::max(call_.floor * count[t] - total[t], 0.0f);
    inverse_[t] = count[t] > 0 ? 1 / (total[t] + gap) : 1;
    fill_[t] = count[t] > 0 ? gap / count[t] * inverse_[t] : 0;
  }
}

// Columns e ... of the averages; `own`: the queries also see keys of this chunk.
inline void Chunks::read_panel(const State& state, int64_t e, int64_t many, bool own) {
  for (int64_t t = 0; t < many; t += TALL) {
    Tile tile;
    tile.clear();
    tile.template add<1, C>(queries.phi + t, state.sums + e * s_.rows, P, s_.rows);
    if (own) {
      if (call_.weighed) tile.scale_rows(rest + t);
      tile.template add<1, C>(seen + t, values + e * C, P, std::min(t + TALL, many));
    }
    tile.scale_rows(inverse_ + t);
    tile.write(average_ + t * s_.values + e, int(s_.values));
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

inline void Chunks::absorb_panel(State& state, int64_t e, int64_t many) {
  const float* panel = values + e * C;
  if (call_.weighed) {
    for (int s = 0; s < many; ++s)
      for (int j = 0; j < P; j += L) store(scaled_ + s * P + j, load(panel + s * P + j) * at_end[s]);
    panel = scaled_;
  }
  for (int64_t f = 0; f < s_.rows; f += TALL) {
    Tile tile;
    float* place = state.sums + e * s_.rows + f * P;
    tile.read(place, P);
    if (call_.weighed) tile.scale(rest_at_end);
    tile.template add<C, 1>(keys.phi + f * C, panel, P, many);
    tile.write(place, P);
    ahead_.fetch(C * TALL / s_.rows + 1);
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
    for (int i = 0; i < L; ++i) {
      row[i] = Floats{};
      if (f + i < s_.rows)
        for (int t = 0; t < C; t += L) row[i] += load(keys.phi + (f + i) * C + t) * load(at_end + t);
    }
    store(state.ones + f, load(state.ones + f) * rest_at_end + row_sums(row));
  }
  float sum = 0;
  for (int s = 0; s < C; ++s) sum += at_end[s];
  if (call_.weighed)
    for (int s = 0; s < many; ++s) state.faded += decay[s];
  state.count = state.count * rest_at_end + sum;
  state.scale = last;
}

// Queries and keys of a chunk one after the other; a panel of the sums is read and then added to while it is
// in the cache.
inline void Chunks::run(State& state, int64_t first, int64_t many) {
  weigh(state);
  score(state, many);
  weigh_last(many);
  divide();
  for (int64_t e = 0; e < s_.values; e += P) {
    read_panel(state, e, many, true);
    absorb_panel(state, e, many);
  }
  write(state, first, many, true);
  absorb_rest(state, many);
}

inline void Chunks::read(const State& state, int64_t first, int64_t many) {
  score_state(state);
  divide();
  for (int64_t e = 0; e < s_.values; e += P) read_panel(state, e, many, false);
  write(state, first, many, false);
}

inline void Chunks::absorb(State& state, int64_t many) {
  weigh_at_end(state);
  add(state, many);
}

// The state after these keys, whose shares at the end are known.
inline void Chunks::add(State& state, int64_t many) {
  for (int64_t e = 0; e < s_.values; e += P) absorb_panel(state, e, many);
  absorb_rest(state, many);
}

inline void copy(const Sizes& s, const State& from, State& to) {
  std::memcpy(to.sums, from.sums, size_t(s.rows * s.values) * 4);
  std::memcpy(to.ones, from.ones, size_t(s.rows) * 4);
  std::memcpy(to.plain, from.plain, size_t(s.values) * 4);
  to.count = from.count, to.scale = from.scale, to.faded = from.faded;
}

// before: the state before a run of keys; run: what the run adds up to by itself.  run becomes both together.
inline void follow(const Sizes& s, bool weighed, const State& before, State& run) {
  const float all = before.scale + float(run.faded);
  const float top = std::max(all, run.scale);
  const float old = weighed ? share_of(all, top) : 1, own = weighed ? share_of(run.scale, top) : 1;
  for (int64_t i = 0; i < s.rows * s.values; ++i) run.sums[i] = old * before.sums[i] + own * run.sums[i];
  for (int64_t i = 0; i < s.rows; ++i) run.ones[i] = old * before.ones[i] + own * run.ones[i];
  for (int64_t i = 0; i < s.values; ++i) run.plain[i] = old * before.plain[i] + own * run.plain[i];
  run.count = old * before.count + own * run.count;
  run.scale = top, run.faded += before.faded;
}

}  // namespace QKV_ISA
}  // namespace qkv
