// Gradients of one head, recomputed chunk by chunk. With U_t the gradient of query t's sums, and m_ts the mass
// of key s at query t:
//
//   d phi(q_t) = sum_s m_ts (U_t.v_s) phi(k_s)            along the sequence, with the sums of the forward pass
//   d phi(k_s) = sum_t m_ts (U_t.v_s) phi(q_t)            back along it, with R = sum_t m phi(q_t) (x) U_t
//   d v_s      = sum_t m_ts (phi(q_t).phi(k_s) U_t + P_t)
//   d log m_s  = v_s . d v_s + 2 sum_t m_ts^2 Q_t         [v, 1] for v throughout
//
// and d log g_l = (all that reaches the final state) - sum_{s >= l} d log m_s, for a query's average does not
// change when all its masses are scaled alike. P_t and Q_t are the gradients of the plain sums
// that fill a gap and of the squared masses that say how large it is.
#pragma once
#include "forward.h"

namespace qkv {
namespace QKV_ISA {

// What the gradients need of every query, found on the way forward.
struct Slopes {
  explicit Slopes(int64_t queries)
      : inverse(queries), one(queries), count(queries), squares(queries), fill(queries) {}
  Buffer inverse;  // U_t = inverse * gradient of out
  Buffer one;      // the last component of U_t
  Buffer count;    // the last component of P_t
  Buffer squares;  // Q_t
  Buffer fill;     // the rest of P_t is fill * U_t
};

class Backward : Chunks {
 public:
  explicit Backward(const Call& call)
      : Chunks(call, true), state(s_), back(s_), u_(C * s_.values), u_turned_(s_.values * C),
        v_turned_(s_.values * C), pairs_(C * C), scores_(C * C), grad_phi_(s_.rows * C),
        grad_v_(C * s_.values), out_(s_.values) {}

  void open(int64_t batch, int64_t head, Slopes& slopes) {
    Chunks::open(batch, head);
    features.open(head, true);
    slopes_ = &slopes;
  }

  // `state` as the queries of the first run meet it.
  void begin_state() {
    if (call_.causal) begin(state);
    else take(state, call_.sums, call_.plain, call_.scale);
  }

  void clear_back() {
    std::memset(back.sums, 0, size_t(s_.rows * s_.values) * 4);
    std::memset(back.ones, 0, size_t(s_.rows) * 4);
    std::memset(back.plain, 0, size_t(s_.values) * 4);
    back.count = 0, back.squares = 0;
  }
  void begin_back();

  // The gradients of these queries.  `gathers`: what they want of the sums before the run is added to `back`.
  void run_queries(Part part, bool gathers) {
    float left = state.scale;
    for (int64_t at = part.begin; at < part.end; at += C) {
      const int64_t many = std::min<int64_t>(C, part.end - at);
      if (call_.causal) forward_chunk(at, many);
      else query_chunk(at, many);
      if (gathers) gather_here(many, left);
      features.unmap(queries, grad_phi_, nullptr, call_.grad_q, b, h, at, many);
    }
  }

  // The gradients of these keys, from the last to the first; `back` becomes that of the sums before them.
  // written: what reaches the masses of these keys and of those after them.
  void run_keys(Part part, double& written) {
    for (int64_t at = part.begin + (part.end - part.begin - 1) / C * C; at >= part.begin && part.end > part.begin; at -= C)
      key_chunk(at, std::min<int64_t>(C, part.end - at), written);
  }

  // The log of how much the keys from `first` on let fade what came before them.
  double faded_from(int64_t first) const {
    double sum = 0;
    for (int64_t s = first; decay_ && s < call_.keys; ++s) sum += decay_[s];
    return sum;
  }

  // Keys of the run that is next are faded by those that come after it; not causal.
  void fade(double by) { faded_ = by; }
  void finish_state();
  // Adds this run's gradient of the matrix, where the map has one and its gradient is wanted.
  void finish_matrix(float* grad) const {
    if (call_.grad_matrix) features.close(grad);
  }

  State state, back;

 private:
  void turn_panels(const float* x, float* turned) const {
    for (int64_t e = 0; e < s_.values; e += P) turn(x + e * C, P, P, turned + e * C);
  }

  void gather_here(int64_t many, float& left);
  void load_slopes(int64_t first, int64_t many);
  void find_slopes(const State& state, int64_t first, int64_t many, bool own);
  void forward_chunk(int64_t first, int64_t many);
  void query_chunk(int64_t first, int64_t many);
  void key_chunk(int64_t first, int64_t many, double& written);
  void grad_queries(int64_t many, bool own);
  void pairs_by_key(int64_t many);
  void pairs_by_query(int64_t many);
  void weigh_backward(int64_t first, int64_t many);
  void weigh_at_end_of_all();
  void grad_keys(int64_t many);
  void grad_values(int64_t many);
  void grad_masses(int64_t first, int64_t many, double& written);
  void gather(int64_t many);

  int64_t at_row(int64_t n) const { return (b * call_.heads + h) * call_.queries + n; }

  Slopes* slopes_ = nullptr;
  Buffer u_, u_turned_, v_turned_, pairs_, scores_, grad_phi_, grad_v_, out_;
  alignas(64) float one_[C], count_slope_[C], square_slope_[C], fill_slope_[C], grad_square_[C], grad_one_[C];
  float whole_ = 0;        // the gradient of the final state's sums, times them: what reaches it
  double faded_ = 0;       // by the keys that come after this chunk; not causal
};

// `back` starts as the gradient of the final state.
inline void Backward::begin_back() {
  clear_back();
  whole_ = 0, faded_ = 0;
  const int64_t wide = s_.value + 1, at = b * call_.heads + h;
  double whole = 0;
  if (call_.grad_sums) {
    const int64_t many = s_.outside() * wide;
    for (int64_t f = 0; f < s_.outside(); ++f) {
      const float* from = call_.grad_sums + at * many + f * wide;
      for (int64_t e = 0; e < s_.value; ++e) back.sums[in_panels(s_.row_of(f), e, s_.rows)] = from[e];
      back.ones[s_.row_of(f)] = from[s_.value];
    }
    for (int64_t i = 0; i < many; ++i) whole += double(call_.grad_sums[at * many + i]) * call_.sums[at * many + i];
  }
  if (call_.grad_plain) {
    const float* from = call_.grad_plain + at * (wide + 1);
    const float* end = call_.plain + at * (wide + 1);
    std::memcpy(back.plain, from, size_t(s_.value) * 4);
    back.count = from[s_.value], back.squares = from[wide];
    for (int64_t e = 0; e < wide; ++e) whole += double(from[e]) * end[e];
    whole += 2.0 * from[wide] * end[wide];
  }
  whole_ = float(whole);
  back.scale = call_.weighed ? call_.scale[at] : 0;
}

// The rows U_t of this chunk, and the same turned.
inline void Backward::load_slopes(int64_t first, int64_t many) {
  for (int64_t t = 0; t < C; ++t) {
    if (t < many) read_row(row_at(call_.grad_out, b, h, first + t, call_.half), call_.half, out_, s_.value);
    else std::memset(out_, 0, size_t(s_.values) * 4);
    const float by = t < many ? slopes_->inverse[first + t] : 0;
    for (int64_t e = 0; e < s_.values; e += L) store(u_ + in_panels(t, e, C), load(out_ + e) * by);
    one_[t] = t < many ? slopes_->one[first + t] : 0;
    count_slope_[t] = t < many ? slopes_->count[first + t] : 0;
    square_slope_[t] = t < many ? slopes_->squares[first + t] : 0;
    fill_slope_[t] = t < many ? slopes_->fill[first + t] : 0;
  }
  turn_panels(u_, u_turned_);
}

// One pass over gradient and average of every query: 1 / mass, and the gradients of its sum, its masses and
// their squares.
inline void Backward::find_slopes(const State& state, int64_t first, int64_t many, bool own) {
  for (int64_t t = 0; t < many; ++t) {
    const float total = call_.total[at_row(first + t)], count = call_.count[at_row(first + t)];
    const float squares = call_.squares[at_row(first + t)], gap = gap_of(call_.floor, squares, total);
    const float inverse = count > 0 ? 1 / (total + gap) : 0;
    read_row(row_at(call_.grad_out, b, h, first + t, call_.half), call_.half, out_, s_.value);
    read_row(row_at(call_.out, b, h, first + t, call_.half), call_.half, row_, s_.value);
    float mass = 0, mean = 0;
    for (int64_t e = 0; e < s_.value; ++e) mass += out_[e] * row_[e];
    mass *= inverse;
    if (gap > 0) {
      sum_plain(state, t, own);
      for (int64_t e = 0; e < s_.value; ++e) mean += out_[e] * plain_[e];
      mean *= inverse / count;
    }
    const bool filled = gap > 0 && count > 0;
    slopes_->inverse[first + t] = inverse;
    slopes_->one[first + t] = filled ? -mean : -mass;
    slopes_->count[first + t] = filled ? -gap * mean / count : 0;
    slopes_->squares[first + t] = filled && squares > 0 ? call_.floor * (mean - mass) / (2 * std::sqrt(squares)) : 0;
    slopes_->fill[first + t] = filled ? gap / count : 0;
  }
}

inline void Backward::forward_chunk(int64_t first, int64_t many) {
  read_both(first, many);
  weigh(state);
  weigh_last(many);
  find_slopes(state, first, many, true);
  load_slopes(first, many);
  pairs_by_key(many);
  grad_queries(many, true);
  add(state, many);
}

// Queries that see all keys.
inline void Backward::query_chunk(int64_t first, int64_t many) {
  read_queries(first, many);
  find_slopes(state, first, many, false);
  load_slopes(first, many);
  grad_queries(many, false);
}

// Adds what this chunk's queries want of the sums before the run; `left` is the log of how much of those is there
// before this chunk, and becomes the same after it.
inline void Backward::gather_here(int64_t many, float& left) {
  for (int t = 0; t < C; ++t) {
    if (call_.causal && call_.weighed) left += decay[t], rest[t] = share_of(left, top[t]);
    else rest[t] = 1;
  }
  rest_at_end = 1;
  gather(many);
}

// pairs[s, t] = m_ts U_t.v_s
inline void Backward::pairs_by_key(int64_t many) {
  for (int t = 0; t < C; t += P)
    for (int s = 0; s < std::min<int>(t + P, int(many)); s += TALL) {
      Tile tile;
      tile.read(one_ + t, 0);
      for (int64_t e = 0; e < s_.values; e += P)
        tile.template add<P, 1>(values + e * C + s * P, u_turned_ + e * C + t, C, P);
      for (int i = 0; i < TALL; ++i)
        for (int j = 0; j < WIDE; ++j)
          store(pairs_ + (s + i) * C + t + j * L,
                s + i < t + (j + 1) * L ? tile.at[i][j] * load(share + (s + i) * C + t + j * L) : Floats{});
    }
}

inline void Backward::grad_queries(int64_t many, bool own) {
  for (int64_t f = 0; f < s_.rows; f += TALL)
    for (int t = 0; t < C; t += P) {
      Tile tile;
      for (int i = 0; i < TALL; ++i)
        for (int j = 0; j < WIDE; ++j) tile.at[i][j] = load(one_ + t + j * L) * state.ones[f + i];
      for (int64_t e = 0; e < s_.values; e += P)
        tile.template add<P, 1>(state.sums + e * s_.rows + f * P, u_turned_ + e * C + t, C, P);
      if (own) {
        if (call_.weighed) tile.scale_columns(rest + t);
        tile.template add<C, 1>(keys.phi + f * C, pairs_ + t, C, std::min<int64_t>(t + P, many));
      }
      tile.write(grad_phi_ + f * C + t, C);
    }
}

}  // namespace QKV_ISA
}  // namespace qkv
