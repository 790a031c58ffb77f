// The way back along the sequence: gradients of keys, values and masses.
#pragma once
#include "backward.h"

namespace qkv {
namespace QKV_ISA {

// share[t, s], rest, at_end and the scale before this chunk.  The largest log is found anew: forward, a step of few
// tokens sums in another order, and logs of keys far longer than usual differ by more than their shares allow.
inline void Backward::weigh_backward(int64_t first, int64_t many) {
  alike_ = false;
  const Ints lanes = lane_numbers();
  if (!call_.weighed) {
    for (int t = 0; t < C; ++t) {
      rest[t] = 1, at_end[t] = kept[t];
      for (int s = 0; s < C; s += L)
        store(share + t * C + s, (lanes + s <= all_int(t)) ? load(kept + s) : Floats{});
    }
    rest_at_end = 1;
    return;
  }
  const int64_t at = b * call_.heads + h;
  const float before = first > 0 ? call_.top[at_row(first - 1)] : call_.scale0 ? call_.scale0[at] : NOTHING;
  for (int s = 0; s < C; s += L) {
    Floats fade{};
    for (int t = 0; t < C; ++t) {
      fade = lanes + s < all_int(t) ? fade + decay[t] : Floats{};
      store(share + t * C + s, lanes + s <= all_int(t) ? fade + load(written + s) : all(NOTHING));
    }
  }
  float left = before;
  for (int t = 0; t < C; ++t) {
    left += decay[t];
    Floats most = all(left);
    for (int s = 0; s < C; s += L) most = highest(most, load(share + t * C + s));
    top[t] = most[0];
    for (int i = 1; i < L; ++i) top[t] = std::max(top[t], most[i]);
    rest[t] = share_of(left, top[t]);
    const float peak = top[t] == NOTHING ? 0 : top[t];
    for (int s = 0; s < C; s += L) store(share + t * C + s, exponential(load(share + t * C + s) - peak));
  }
  std::memcpy(at_end, share + (many - 1) * C, sizeof at_end);
  rest_at_end = rest[many - 1];
}

// at_end of keys that every query sees, and that those after them fade.
inline void Backward::weigh_at_end_of_all() {
  for (int s = C - 1; s >= 0; --s) {
    at_end[s] = call_.weighed ? share_of(written[s] + float(faded_), state.scale) : kept[s];
    faded_ += decay[s];
  }
}

// pairs[t, s] = m_ts U_t.v_s and scores[t, s] = m_ts (phi(q_t).phi(k_s) + fill_t); what ones want of the keys.
inline void Backward::pairs_by_query(int64_t many) {
  for (int s = 0; s < C; s += L) store(grad_one_ + s, Floats{});
  for (int t = 0; t < many; t += TALL)
    for (int s = 0; s <= t; s += P) {
      Tile pairs, scores;
      for (int i = 0; i < TALL; ++i)
        for (int j = 0; j < WIDE; ++j) pairs.at[i][j] = all(one_[t + i]);
      for (int64_t e = 0; e < s_.values; e += P)
        pairs.template add<P, 1>(u_ + e * C + t * P, v_turned_ + e * C + s, C, P);
      scores.clear();
      scores.template add<1, C>(queries.phi + t, keys.phi + s, C, s_.rows);
      for (int j = 0; j < WIDE; ++j) {
        Floats one = load(grad_one_ + s + j * L);
        for (int i = 0; i < TALL; ++i) {
          const int64_t at = (t + i) * C + s + j * L;
          const Floats part = load(share + at);
          one += part * (scores.at[i][j] * one_[t + i] + count_slope_[t + i]);
          one += part * part * (2 * square_slope_[t + i]);
          store(pairs_ + at, part * pairs.at[i][j]);
          store(scores_ + at, part * (scores.at[i][j] + fill_slope_[t + i]));
        }
        store(grad_one_ + s + j * L, one);
      }
    }
}

inline void Backward::grad_keys(int64_t many) {
  for (int64_t f = 0; f < s_.rows; f += TALL)
    for (int s = 0; s < C; s += P) {
      Tile tile;
      for (int i = 0; i < TALL; ++i)
        for (int j = 0; j < WIDE; ++j) tile.at[i][j] = all(back.ones[f + i]);
      for (int64_t e = 0; e < s_.values; e += P)
        tile.template add<P, 1>(back.sums + e * s_.rows + f * P, v_turned_ + e * C + s, C, P);
      tile.scale_columns(at_end + s);
      if (call_.causal && s < many)
        tile.template add<C, 1>(queries.phi + f * C + s, pairs_ + s * C + s, C, many - s);
      tile.write(grad_phi_ + f * C + s, C);
    }
}

inline void Backward::grad_values(int64_t many) {
  by_panels(s_.values, [&](auto panels, int64_t e) {
    constexpr int N = panels, ROWS = TALL / N;
    for (int64_t s = 0; s < many; s += ROWS) {
      Broad<N> tile;
      tile.read(back.plain + e, 0, P);
      tile.template add<1, C>(keys.phi + s, back.sums + e * s_.rows, P, s_.rows, s_.rows * P);
      tile.scale_rows(at_end + s);
      if (call_.causal)
        tile.template add<1, C>(scores_ + s * C + s, u_ + e * C + s * P, P, many - s, C * P);
      tile.write(grad_v_ + s * s_.values + e, int(s_.values), P);
    }
  });
}

inline void Backward::grad_masses(int64_t first, int64_t many, double& sum) {
  for (int s = 0; s < C; s += L) {
    Floats one = all(back.count);
    for (int64_t f = 0; f < s_.rows; ++f) one += load(keys.phi + f * C + s) * back.ones[f];
    const Floats ends = load(at_end + s);
    one = one * ends + ends * ends * (2 * back.squares);
    if (call_.causal) one += load(grad_one_ + s);
    Floats row[L];
    for (int i = 0; i < L; ++i) {
      row[i] = Floats{};
      for (int64_t e = 0; e < s_.values; e += L)
        row[i] += load(values + in_panels(s + i, e, C)) * load(grad_v_ + (s + i) * s_.values + e);
    }
    store(grad_one_ + s, one + row_sums(row));
  }
  const int64_t at = (b * call_.heads + h) * call_.keys + first;
  for (int64_t s = many - 1; s >= 0; --s) {
    sum += grad_one_[s];
    if (call_.grad_written) call_.grad_written[at + s] = kept[s] ? grad_one_[s] : 0;
    if (call_.grad_decay) call_.grad_decay[at + s] = float(whole_ - sum);
  }
}

// back += rest * phi(q) (x) U, and what is left of it before this chunk.
inline void Backward::gather(int64_t many) {
  for (int64_t t = 0; t < C; ++t) {
    if (t >= many) rest[t] = 0;
    one_[t] *= rest[t];
  }
  if (call_.weighed && call_.causal)
    for (int64_t e = 0; e < s_.values; e += L)
      for (int64_t t = 0; t < many; ++t) {
        float* place = u_ + in_panels(t, e, C);
        store(place, load(place) * rest[t]);
      }
  by_panels(s_.values, [&](auto panels, int64_t e) {
    constexpr int N = panels, ROWS = TALL / N;
    for (int64_t f = 0; f < s_.rows; f += ROWS) {
      Broad<N> tile;
      float* place = back.sums + e * s_.rows + f * P;
      tile.read(place, P, s_.rows * P);
      tile.scale(rest_at_end);
      tile.template add<C, 1>(queries.phi + f * C, u_ + e * C, P, many, C * P);
      tile.write(place, P, s_.rows * P);
    }
  });
  for (int64_t f = 0; f < s_.rows; ++f) {
    Floats sum{};
    for (int t = 0; t < C; t += L) sum += load(queries.phi + f * C + t) * load(one_ + t);
    float ones = back.ones[f] * rest_at_end;
    for (int i = 0; i < L; ++i) ones += sum[i];
    back.ones[f] = ones;
  }
  for (int64_t e = 0; e < s_.values; e += L) {
    Floats sum = load(back.plain + e) * rest_at_end;
    for (int64_t t = 0; t < many; ++t) sum += load(u_ + in_panels(t, e, C)) * fill_slope_[t];
    store(back.plain + e, sum);
  }
  back.count *= rest_at_end, back.squares *= rest_at_end * rest_at_end;
  for (int64_t t = 0; t < many; ++t) {
    back.count += rest[t] * count_slope_[t];
    back.squares += rest[t] * rest[t] * square_slope_[t];
  }
}

// The gradients of the state before the first key.
inline void Backward::finish_state() {
  if (!call_.grad_sums0) return;
  const int64_t at = b * call_.heads + h;
  if (!call_.causal && call_.weighed) {
    const float left = share_of(call_.scale0[at] + float(faded_), state.scale);
    for (int64_t i = 0; i < s_.rows * s_.values; ++i) back.sums[i] *= left;
    for (int64_t i = 0; i < s_.rows; ++i) back.ones[i] *= left;
    for (int64_t i = 0; i < s_.values; ++i) back.plain[i] *= left;
    back.count *= left, back.squares *= left * left;
  }
  give(back, call_.grad_sums0, call_.grad_plain0, nullptr);
}

inline void Backward::key_chunk(int64_t first, int64_t many, double& written_so_far) {
  read_keys(first, many);
  turn_panels(values, v_turned_);
  if (call_.causal) {
    read_queries(first, many);
    weigh_backward(first, many);
    load_slopes(first, many);
    pairs_by_query(many);
  } else {
    weigh_at_end_of_all();
  }
  grad_keys(many);
  grad_values(many);
  for (int64_t s = 0; s < many; ++s)
    write_row(grad_v_ + s * s_.values, call_.half, row_at(call_.grad_v, b, h, first + s, call_.half), s_.value);
  const bool masses = call_.weighed && (call_.grad_written || call_.map == FAVOR);
  if (masses) grad_masses(first, many, written_so_far);
  features.unmap(keys, grad_phi_, masses ? grad_one_ : nullptr, call_.grad_k, b, h, first, many);
  if (call_.causal) gather(many);
}

}  // namespace QKV_ISA
}  // namespace qkv
