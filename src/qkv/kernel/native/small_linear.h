// A linear layer applied to few rows, as in the projections of a decoding step.  A general matrix product would spend
// longer on packing the weight than on the work, so every output is an inner product of two rows as they lie in memory.
#pragma once
#include "memory.h"
#include "parallel_jobs.h"
#include "threads.h"

namespace qkv {
namespace QKV_ISA {

// Rows of the weight and rows of x whose products are computed together: one product for each lane of a vector.
constexpr int WEIGHT_ROWS = 4, X_ROWS = L / WEIGHT_ROWS;
constexpr int64_t JOB_COLUMNS = 32;  // columns of the output in one job

// out[i ..., o ...] [X_ROWS, WEIGHT_ROWS] = x [X_ROWS, in] @ weight^T [in, WEIGHT_ROWS] + bias.  Beyond an edge the
// last row is read once more and its result is not written.
inline void compute_block(const SmallLinear& call, int64_t i, int64_t o) {
  const float *x[X_ROWS], *weight[WEIGHT_ROWS];
  for (int r = 0; r < X_ROWS; ++r) x[r] = call.x + std::min(i + r, call.rows - 1) * call.in_features;
  for (int c = 0; c < WEIGHT_ROWS; ++c)
    weight[c] = call.weight + std::min(o + c, call.out_features - 1) * call.in_features;
  // Every block of x prefetches one of the next rows of the weight.
  const int64_t next_row = std::min(o + WEIGHT_ROWS + i / X_ROWS % WEIGHT_ROWS, call.out_features - 1);
  const float* next = call.weight + next_row * call.in_features;
  Floats sum[L] = {};
  int64_t d = 0;
  for (; d + L <= call.in_features; d += L) {
    Floats weights[WEIGHT_ROWS];
    __builtin_prefetch(next + d);
#pragma GCC unroll 4
    for (int c = 0; c < WEIGHT_ROWS; ++c) weights[c] = load(weight[c] + d);
#pragma GCC unroll 4
    for (int r = 0; r < X_ROWS; ++r) {
      const Floats inputs = load(x[r] + d);
#pragma GCC unroll 4
      for (int c = 0; c < WEIGHT_ROWS; ++c) sum[r * WEIGHT_ROWS + c] += weights[c] * inputs;
    }
  }
  Floats total = sum_rows(sum);
  alignas(64) float products[L];
  if (d < call.in_features) {
    float remainder[L] = {};
    for (; d < call.in_features; ++d)
      for (int j = 0; j < L; ++j) remainder[j] += x[j / WEIGHT_ROWS][d] * weight[j % WEIGHT_ROWS][d];
    total += load(remainder);
  }
  store(products, total);
  const int64_t rows = std::min<int64_t>(X_ROWS, call.rows - i);
  float* out = call.out + i * call.out_features + o;
  if (o + WEIGHT_ROWS <= call.out_features) {  // a width that is known when this is compiled
    float bias[WEIGHT_ROWS] = {};
    if (call.bias) std::memcpy(bias, call.bias + o, sizeof bias);
    for (int64_t r = 0; r < rows; ++r, out += call.out_features)
      for (int c = 0; c < WEIGHT_ROWS; ++c) out[c] = products[r * WEIGHT_ROWS + c] + bias[c];
    return;
  }
  for (int64_t r = 0; r < rows; ++r, out += call.out_features)
    for (int64_t c = 0; c < call.out_features - o; ++c)
      out[c] = products[r * WEIGHT_ROWS + c] + (call.bias ? call.bias[o + c] : 0);
}

void small_linear(const SmallLinear& call, RunOnThreads run_on_threads) {
  const int64_t job_count = (call.out_features + JOB_COLUMNS - 1) / JOB_COLUMNS;
  const int threads = int(std::max<int64_t>(std::min(call.threads, job_count), 1));
  ParallelJobs jobs(job_count, threads);
  auto body = [&] {
    jobs.for_each([&](int64_t job) {
      for (int64_t o = job * JOB_COLUMNS; o < std::min((job + 1) * JOB_COLUMNS, call.out_features); o += WEIGHT_ROWS)
        for (int64_t i = 0; i < call.rows; i += X_ROWS) compute_block(call, i, o);
    });
  };
  call_on_threads(run_on_threads, threads, body);
}

}  // namespace QKV_ISA
}  // namespace qkv
