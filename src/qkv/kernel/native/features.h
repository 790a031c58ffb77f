// Feature maps of a chunk of tokens, features in rows and tokens in columns, so that everything that belongs
// to a token is one vector operation for many tokens.
#pragma once
#include <algorithm>

#include "mapped.h"

namespace qkv {
namespace QKV_ISA {

class Features {
 public:
  Features(const Call& call, bool backward)
      : call_(call), s_(call), whole_(!backward && !call.half && s_.width == s_.columns), by_feature_(s_.block * s_.width),
        by_width_(backward ? s_.block * s_.columns : 0), logit_(backward ? s_.rows * C : 0),
        slope_(backward ? s_.columns * C : 0), grad_(backward ? s_.block * s_.columns : 0),
        rows_(backward ? C * s_.columns : 0) {}

  void open(int64_t h, bool backward) {
    if (call_.map == ELU) return;
    const float* matrix = call_.matrix + h * s_.features * s_.width;
    for (int64_t r = 0; r < s_.features; ++r)
      for (int64_t d = 0; d < s_.width; ++d)
        by_feature_[(r / TALL * s_.width + d) * TALL + r % TALL] = matrix[r * s_.width + d];
    if (call_.map == GAUSSIAN) longest_ = bound_of_rows(matrix);
    if (!backward) return;
    std::memset(grad_, 0, size_t(s_.block * s_.columns) * 4);
    for (int64_t r = 0; r < s_.features; ++r)
      for (int64_t d = 0; d < s_.width; ++d)
        by_width_[(d / TALL * s_.block + r) * TALL + d % TALL] = matrix[r * s_.width + d];
  }

  // keep: of the tokens of the chunk, null where all are real.  What is not real is never read.
  void map(const Rows& from, int64_t b, int64_t h, int64_t first, int64_t many, const uint8_t* keep,
           Mapped& to) const {
    read(from, b, h, first, many, keep, to);
    lift<1>({&to});
  }

  // Queries and keys of the same tokens.  A broad tile reads the matrix once for both.
  void map_both(int64_t b, int64_t h, int64_t first, int64_t many, const uint8_t* keep, Mapped& queries,
                Mapped& keys) const {
    read(call_.q, b, h, first, many, nullptr, queries);
    read(call_.k, b, h, first, many, keep, keys);
    if constexpr (PANELS == 2) lift<2>({&queries, &keys});
    else lift<1>({&queries}), lift<1>({&keys});
  }

  // grad: of phi [rows, C]; grad_mass: of the log mass of every token, or null. Writes the gradient of x and
  // adds that of the matrix.
  void unmap(const Mapped& at, const float* grad, const float* grad_mass, const Rows& to, int64_t b, int64_t h,
             int64_t first, int64_t many) const {
    if (call_.map == ELU) sink(at, grad);
    else reflect(at, grad);
    if (call_.unit) straighten(at);
    if (call_.map == FAVOR && grad_mass) shorten(at, grad_mass);
    turn_back(slope_, s_.columns, rows_);
    for (int64_t t = 0; t < many; ++t)
      write_row(rows_ + t * s_.columns, call_.half, row_at(to, b, h, first + t, call_.half), s_.width);
  }

  // Adds the gradient of the matrix since `open`.
  void close(float* grad_matrix) const {
    for (int64_t r = 0; r < s_.features; ++r)
      for (int64_t d = 0; d < s_.width; ++d)
        grad_matrix[r * s_.width + d] += grad_[in_panels(r, d, s_.block)];
  }

 private:
  void read(const Rows& from, int64_t b, int64_t h, int64_t first, int64_t many, const uint8_t* keep,
            Mapped& to) const {
    to.ahead.aim(from, b, h, first + C, s_.width, call_.half);
    if (whole_ && many == C && !keep) {
      for (int t = 0; t < C; ++t) to.amplitude[t] = amplitude();
      turn(reinterpret_cast<const float*>(row_at(from, b, h, first, false)), from.position, s_.columns, to.turned);
      return measure(to);
    }
    for (int64_t t = 0; t < C; ++t) {
      bool real = t < many && (!keep || keep[t]);
      float* row = to.x + t * s_.columns;
      if (real) read_row(row_at(from, b, h, first + t, call_.half), call_.half, row, s_.width);
      else std::memset(row, 0, size_t(s_.width) * 4);
      to.amplitude[t] = real ? amplitude() : 0;
    }
    turn(to.x, s_.columns, s_.columns, to.turned);
    measure(to);
  }

  template <int N>
  void lift(Mapped* const (&to)[N]) const {
    if (call_.map == GAUSSIAN) {
      bool large = false;
      for (const Mapped* one : to) large = large || has_large_angles(*one);
      if (!large) return project<GAUSSIAN>(to);
    }
    if (call_.map == ARCCOS) return project<ARCCOS>(to);
    if (call_.map != ELU) project<FAVOR>(to);
    for (Mapped* one : to) {
      if (call_.map == GAUSSIAN) wind(*one);
      else if (call_.map == FAVOR) soften(*one);
      else rise(*one);
    }
  }

  // No row has a larger squared length: the sum, over the lanes of a vector, of what a row has most there.
  float bound_of_rows(const float* row) const {
    Floats most{};
    for (int64_t r = 0; r < s_.features; ++r, row += s_.width) {
      Floats square{};
      int64_t d = 0;
      for (; d + L <= s_.width; d += L) square += load(row + d) * load(row + d);
      for (; d < s_.width; ++d) square[d % L] += row[d] * row[d];
      most = highest(most, square);
    }
    float bound = 0;
    for (int i = 0; i < L; ++i) bound += most[i];
    return bound;
  }

  // Whether |W||x| allows an angle that `sin_cos` is not made for; also where that is not a number.
  bool has_large_angles(const Mapped& of) const {
    float square = 1;
    if (!call_.unit) square = *std::max_element(of.square, of.square + C);
    return !(square * longest_ <= LARGEST_ANGLE * LARGEST_ANGLE);
  }

  float amplitude() const { return call_.map == ELU ? 1.0f : 1.0f / std::sqrt(float(s_.features)); }

  void measure(Mapped& to) const {
    if (!call_.unit && (call_.map == ELU || call_.map == ARCCOS)) {
      for (int t = 0; t < C; ++t) to.inverse[t] = 1;
      return;
    }
    for (int t = 0; t < C; t += L) {
      Floats square{};
      for (int64_t d = 0; d < s_.width; ++d) {
        Floats x = load(to.turned + d * C + t);
        square += x * x;
      }
      store(to.square + t, square);
    }
    for (int t = 0; t < C; ++t)
      to.inverse[t] = call_.unit ? 1 / std::max(std::sqrt(to.square[t]), SHORTEST) : 1;
  }

  template <int MAP, int N>
  void project(Mapped* const (&to)[N]) const {
    constexpr int ROWS = TALL / N;
    const int64_t share = C * ROWS / s_.block + 1;
    const int64_t apart = to[N - 1]->turned - to[0]->turned;
    for (int64_t r = 0; r < s_.block; r += ROWS)
      for (int t = 0; t < C; t += P) {
        Broad<N> tile;
        tile.clear();
        const float* rows = by_feature_ + r / TALL * TALL * s_.width + r % TALL;
        tile.template add<1, TALL>(rows, to[0]->turned + t, C, s_.width, apart);
#pragma GCC unroll 2
        for (int n = 0; n < N; ++n) {
          finish<MAP>(tile, n, *to[n], r, t);
          to[n]->ahead.fetch(share);
        }
      }
    for (Mapped* one : to) {
      for (int64_t r = s_.features; r < s_.block; ++r) std::memset(one->phi + r * C, 0, C * 4);
      if (s_.paired)
        for (int64_t r = s_.block + s_.features; r < s_.rows; ++r) std::memset(one->phi + r * C, 0, C * 4);
    }
  }

  // The features of panel n of the tile.
  template <int MAP, int N>
  QKV_INLINE void finish(const Broad<N>& tile, int n, Mapped& to, int64_t r, int t) const {
    float* phi = to.phi + r * C + t;
#pragma GCC unroll 16
    for (int i = 0; i < TALL / N; ++i)
      for (int j = 0; j < WIDE; ++j) {
        float* place = phi + i * C + j * L;
        Floats amplitude = load(to.amplitude + t + j * L), logit = tile.at[i][n * WIDE + j];
        if (MAP != FAVOR) logit *= load(to.inverse + t + j * L);
        if (MAP == GAUSSIAN) {
          Floats sine, cosine;
          sin_cos(logit, amplitude, sine, cosine);
          store(place, sine);
          store(place + s_.block * C, cosine);
        } else {
          store(place, MAP == ARCCOS ? highest(Floats{}, logit) * amplitude : logit);
        }
      }
  }

  // Logits, not yet divided by the lengths of the vectors -> sin and cos.
  void wind(Mapped& to) const {
    for (int64_t r = 0; r < s_.features; ++r)
      for (int t = 0; t < C; t += L) {
        float* place = to.phi + r * C + t;
        Floats sine, cosine;
        sin_cos_of_any(load(place) * load(to.inverse + t), load(to.amplitude + t), sine, cosine);
        store(place, sine), store(place + s_.block * C, cosine);
      }
  }

  // Logits -> exp(logit - peak); peak is the largest of every token.
  void soften(Mapped& to) const {
    for (int t = 0; t < C; t += L) {
      Floats peak = load(to.phi + t), amplitude = load(to.amplitude + t);
      for (int64_t r = 1; r < s_.features; ++r) peak = highest(peak, load(to.phi + r * C + t));
      for (int64_t r = 0; r < s_.features; ++r) {
        float* place = to.phi + r * C + t;
        store(place, exponential(load(place) - peak) * amplitude);
      }
      store(to.peak + t, peak);
    }
  }

  void rise(Mapped& to) const {
    for (int64_t d = 0; d < s_.features; ++d)
      for (int t = 0; t < C; t += L) {
        Floats x = load(to.turned + d * C + t), none{};
        store(to.phi + d * C + t, (exponential(lowest(none, x)) + highest(none, x)) * load(to.amplitude + t));
      }
  }

  // slope = gradient of x through elu(x) + 1.
  void sink(const Mapped& at, const float* grad) const {
    for (int64_t i = 0; i < s_.features * C; i += L)
      store(slope_ + i, load(grad + i) * lowest(load(at.phi + i), all(1)));
  }

  // The gradient of what the matrix makes of x, then through the matrix.
  void reflect(const Mapped& at, const float* grad) const {
    const int64_t cosines = s_.block * C;
    for (int64_t r = 0; r < s_.block; ++r)
      for (int t = 0; t < C; t += L) {
        const int64_t i = r * C + t;
        const Floats phi = load(at.phi + i), from = load(grad + i);
        Floats slope;
        if (call_.map == GAUSSIAN) slope = from * load(at.phi + cosines + i) - load(grad + cosines + i) * phi;
        else if (call_.map == ARCCOS) slope = phi > Floats{} ? from * load(at.amplitude + t) : Floats{};
        else slope = from * phi;
        store(logit_ + i, slope * load(at.inverse + t));
      }
    for (int64_t d = 0; d < s_.width; d += TALL)
      for (int t = 0; t < C; t += P) {
        Tile tile;
        tile.clear();
        tile.template add<1, TALL>(by_width_ + d * s_.block, logit_ + t, C, s_.features);
        tile.write(slope_ + d * C + t, C);
      }
    if (!call_.grad_matrix) return;
    for (int64_t d = 0; d < s_.columns; d += P)
      for (int64_t r = 0; r < s_.block; r += TALL) {
        Tile tile;
        float* place = grad_ + in_panels(r, d, s_.block);
        tile.read(place, P);
        tile.template add<C, 1>(logit_ + r * C, at.x + d, s_.columns, C);
        tile.write(place, P);
      }
  }

  // The part along x does not change a unit vector.
  void straighten(const Mapped& at) const {
    for (int t = 0; t < C; t += L) {
      Floats along{}, inverse = load(at.inverse + t);
      for (int64_t d = 0; d < s_.width; ++d) along += load(slope_ + d * C + t) * load(at.turned + d * C + t);
      along = load(at.square + t) > SHORTEST * SHORTEST ? along * inverse * inverse : Floats{};
      for (int64_t d = 0; d < s_.width; ++d) {
        float* place = slope_ + d * C + t;
        store(place, load(place) - load(at.turned + d * C + t) * along);
      }
    }
  }

  void shorten(const Mapped& at, const float* grad_mass) const {
    for (int64_t d = 0; d < s_.width; ++d)
      for (int t = 0; t < C; t += L) {
        float* place = slope_ + d * C + t;
        store(place, load(place) - load(at.turned + d * C + t) * load(grad_mass + t) * (2 * call_.square));
      }
  }

  const Call& call_;
  Sizes s_;
  float longest_ = 0;  // no row of the matrix has a larger squared length
  bool whole_;  // rows can be turned where they lie; the gradient wants them beside each other
  Buffer by_feature_, by_width_, logit_, slope_, grad_, rows_;
};

}  // namespace QKV_ISA
}  // namespace qkv
