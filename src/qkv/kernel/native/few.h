// A matrix times few rows: what the projections of a decoding step are.  Packing for a general product would take
// longer than the work, so every number is a sum along two rows, as many of them side by side as a vector has lanes.
#pragma once
#include "jobs.h"
#include "rows.h"
#include "threads.h"

namespace qkv {
namespace QKV_ISA {

constexpr int ACROSS = 4, DOWN = L / ACROSS;  // rows of the matrix, and of x, whose products are taken at once
constexpr int64_t RUN = 32;                   // rows of the matrix that a thread takes at a time

// out[i, o] of DOWN rows i and ACROSS columns o.  What is beyond an edge is the last once more.
inline void dots(const Few& call, int64_t i, int64_t o) {
  const float *x[DOWN], *row[ACROSS];
  for (int r = 0; r < DOWN; ++r) x[r] = call.x + std::min(i + r, call.rows - 1) * call.width;
  for (int c = 0; c < ACROSS; ++c) row[c] = call.matrix + std::min(o + c, call.columns - 1) * call.width;
  // Every tile of x fetches one of the next rows of the matrix into the cache.
  const float* next = call.matrix + std::min(o + ACROSS + i / DOWN % ACROSS, call.columns - 1) * call.width;
  Floats sum[L] = {};
  int64_t d = 0;
  for (; d + L <= call.width; d += L) {
    Floats part[ACROSS];
    __builtin_prefetch(next + d);
#pragma GCC unroll 4
    for (int c = 0; c < ACROSS; ++c) part[c] = load(row[c] + d);
#pragma GCC unroll 4
    for (int r = 0; r < DOWN; ++r) {
      const Floats from = load(x[r] + d);
#pragma GCC unroll 4
      for (int c = 0; c < ACROSS; ++c) sum[r * ACROSS + c] += part[c] * from;
    }
  }
  Floats total = row_sums(sum);
  alignas(64) float found[L];
  if (d < call.width) {
    float rest[L] = {};
    for (; d < call.width; ++d)
      for (int at = 0; at < L; ++at) rest[at] += x[at / ACROSS][d] * row[at % ACROSS][d];
    total += load(rest);
  }
  store(found, total);
  const int64_t down = std::min<int64_t>(DOWN, call.rows - i);
  float* out = call.out + i * call.columns + o;
  if (o + ACROSS <= call.columns) {  // of a width that the compiler knows
    float bias[ACROSS] = {};
    if (call.bias) std::memcpy(bias, call.bias + o, sizeof bias);
    for (int64_t r = 0; r < down; ++r, out += call.columns)
      for (int c = 0; c < ACROSS; ++c) out[c] = found[r * ACROSS + c] + bias[c];
    return;
  }
  for (int64_t r = 0; r < down; ++r, out += call.columns)
    for (int64_t c = 0; c < call.columns - o; ++c)
      out[c] = found[r * ACROSS + c] + (call.bias ? call.bias[o + c] : 0);
}

void few(const Few& call, Spread spread) {
  const int64_t runs = (call.columns + RUN - 1) / RUN;
  const int threads = int(std::max<int64_t>(std::min(call.threads, runs), 1));
  Jobs jobs(runs, threads);
  auto body = [&] {
    jobs.each([&](int64_t run) {
      for (int64_t o = run * RUN; o < std::min((run + 1) * RUN, call.columns); o += ACROSS)
        for (int64_t i = 0; i < call.rows; i += DOWN) dots(call, i, o);
    });
  };
  on_threads(spread, threads, body);
}

}  // namespace QKV_ISA
}  // namespace qkv
