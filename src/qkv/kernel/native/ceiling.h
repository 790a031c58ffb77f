// How fast one thread of this machine can go at most: what a time is to be compared with.
#pragma once
#include <algorithm>
#include <chrono>

#include "tile.h"

// Keeps the compiler from leaving out what nobody reads.
#if defined(__x86_64__)
#define KEPT(vector) asm volatile("" : "+v"(vector))
#else
#define KEPT(vector) asm volatile("" : "+w"(vector))
#endif

namespace qkv {
namespace QKV_ISA {

template <typename F>
double rate_of(double operations, F&& round) {
  double best = 0;
  for (int i = 0; i < 7; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    round();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, operations / took.count());
  }
  return best;
}

// Multiply-adds per second of registers alone.
inline double multiply_adds() {
  constexpr int ROUNDS = 300000;
  return rate_of(double(ROUNDS) * TALL * P, [] {
    Tile tile;
    tile.clear();
    Floats left = all(0.5f), right = all(1.0f);
    for (int round = 0; round < ROUNDS; ++round)
#pragma GCC unroll 16
      for (int i = 0; i < TALL; ++i)
        for (int j = 0; j < WIDE; ++j) {
          tile.at[i][j] = tile.at[i][j] * left + right;
          KEPT(tile.at[i][j]);
        }
  });
}

// Pairs of sin and cos per second of numbers in the nearest cache.
inline double sines() {
  constexpr int ROUNDS = 5000, MANY = 1024;
  alignas(64) float angles[MANY], sine[MANY], cosine[MANY];
  for (int i = 0; i < MANY; ++i) angles[i] = 0.01f * float(i);
  return rate_of(double(ROUNDS) * MANY, [&] {
    for (int round = 0; round < ROUNDS; ++round) {
      for (int i = 0; i < MANY; i += L) {
        Floats s, c;
        sin_cos(load(angles + i), all(0.125f), s, c);
        store(sine + i, s), store(cosine + i, c);
      }
      asm volatile("" : : "r"(sine), "r"(cosine) : "memory");
    }
  });
}

}  // namespace QKV_ISA
}  // namespace qkv
