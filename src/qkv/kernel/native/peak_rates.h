// The fastest rates that one thread of this machine reaches, to compare measured times with.
#pragma once
#include <algorithm>
#include <chrono>

#include "tile.h"

// Keeps the compiler from removing results that are never read.
#if defined(__x86_64__)
#define QKV_KEEP(vector) asm volatile("" : "+v"(vector))
#else
#define QKV_KEEP(vector) asm volatile("" : "+w"(vector))
#endif

namespace qkv {
namespace QKV_ISA {

// Operations per second in the fastest of several rounds.
template <typename F>
double measure_rate(double operations, F&& round) {
  double best = 0;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    round();
    const std::chrono::duration<double> duration = std::chrono::steady_clock::now() - begin;
    best = std::max(best, operations / duration.count());
  }
  return best;
}

// Multiply-adds per second with all operands in registers.
inline double measure_multiply_adds() {
  constexpr int ROUNDS = 300000;
  return measure_rate(double(ROUNDS) * TILE_ROWS * P, [] {
    Tile tile;
    tile.clear();
    Floats factor = broadcast(0.5f), summand = broadcast(1.0f);
    for (int round = 0; round < ROUNDS; ++round)
#pragma GCC unroll 16
      for (int i = 0; i < TILE_ROWS; ++i)
        for (int j = 0; j < PANEL_VECTORS; ++j) {
          tile.value[i][j] = tile.value[i][j] * factor + summand;
          QKV_KEEP(tile.value[i][j]);
        }
  });
}

// Pairs of sine and cosine per second, of angles in the first-level cache.
inline double measure_sin_cos() {
  constexpr int ROUNDS = 5000, COUNT = 1024;
  alignas(64) float angles[COUNT], sine[COUNT], cosine[COUNT];
  for (int i = 0; i < COUNT; ++i) angles[i] = 0.01f * float(i);
  return measure_rate(double(ROUNDS) * COUNT, [&] {
    for (int round = 0; round < ROUNDS; ++round) {
      for (int i = 0; i < COUNT; i += L) {
        Floats s, c;
        sin_cos(load(angles + i), broadcast(0.125f), s, c);
        store(sine + i, s), store(cosine + i, c);
      }
      asm volatile("" : : "r"(sine), "r"(cosine) : "memory");
    }
  });
}

}  // namespace QKV_ISA
}  // namespace qkv
