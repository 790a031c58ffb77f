// Sums of keys, and how sums follow one another.
#pragma once
#include <limits>

#include "features.h"

namespace qkv {
namespace QKV_ISA {

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

// What a run of keys adds up to: sums [rows, values] in panels, the same with [1] for values, the values, masses
// and squared masses without features, the log of what all are divided by, and how much the run lets fade what came before it.
struct State {
  explicit State(const Sizes& s)
      : sums(s.rows * s.values), ones(up_to(s.rows, L)), plain(s.values) {}
  Buffer sums, ones, plain;
  float count = 0, squares = 0, scale = NOTHING;
  double faded = 0;
};

// At most 1, also where rounding makes a log larger than the largest.
QKV_INLINE float share_of(float log, float top) { return log == NOTHING ? 0 : std::exp(std::min(log - top, 0.0f)); }

// The log mass of a FAVOR+ key from its largest logit and its squared length.  Where that length is beyond
// float32 the mass is the least there is, not 0: such a key is still there.
QKV_INLINE float key_mass(const Call& call, float peak, float square) {
  return std::max(peak - call.square * square, -std::numeric_limits<float>::max());
}

inline void copy(const Sizes& s, const State& from, State& to) {
  std::memcpy(to.sums, from.sums, size_t(s.rows * s.values) * 4);
  std::memcpy(to.ones, from.ones, size_t(s.rows) * 4);
  std::memcpy(to.plain, from.plain, size_t(s.values) * 4);
  to.count = from.count, to.squares = from.squares, to.scale = from.scale, to.faded = from.faded;
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
  run.squares = old * old * before.squares + own * own * run.squares;
  run.scale = top, run.faded += before.faded;
}

// back: the gradient of the sums after a run; gathered: what the run's queries want of the sums before it.  gathered
// becomes the gradient of those, `left` of which are still there after the run.
inline void precede(const Sizes& s, float left, const State& back, State& gathered) {
  for (int64_t i = 0; i < s.rows * s.values; ++i) gathered.sums[i] += left * back.sums[i];
  for (int64_t i = 0; i < s.rows; ++i) gathered.ones[i] += left * back.ones[i];
  for (int64_t i = 0; i < s.values; ++i) gathered.plain[i] += left * back.plain[i];
  gathered.count += left * back.count;
  gathered.squares += left * left * back.squares;
}

}  // namespace QKV_ISA
}  // namespace qkv
