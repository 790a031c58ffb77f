// Vectors of QKV_LANES floats, in the vector types of the compiler, and functions on them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define QKV_INLINE inline __attribute__((always_inline))

namespace qkv {
namespace QKV_ISA {

constexpr int L = QKV_LANES;
typedef float Floats __attribute__((vector_size(L * 4)));
typedef int32_t Ints __attribute__((vector_size(L * 4)));
typedef float LooseFloats __attribute__((vector_size(L * 4), aligned(4), may_alias));

QKV_INLINE Floats load(const float* source) { return *reinterpret_cast<const LooseFloats*>(source); }
QKV_INLINE void store(float* to, Floats x) { *reinterpret_cast<LooseFloats*>(to) = x; }
QKV_INLINE Floats broadcast(float x) { return x - Floats{}; }
QKV_INLINE Ints broadcast_int(int32_t x) { return x - Ints{}; }
// The larger and the smaller of each lane; b where either is NaN.  A bound is passed first, so that NaN in x is kept.
QKV_INLINE Floats vector_max(Floats a, Floats b) { return a > b ? a : b; }
QKV_INLINE Floats vector_min(Floats a, Floats b) { return a < b ? a : b; }
QKV_INLINE Ints as_ints(Floats x) { return (Ints)x; }
QKV_INLINE Floats as_floats(Ints x) { return (Floats)x; }

QKV_INLINE Ints lane_indices() {
  Ints lanes{};
  for (int i = 0; i < L; ++i) lanes[i] = i;
  return lanes;
}

// Adding and then subtracting 1.5 * 2^23 rounds to the nearest integer; the low bits of the sum hold that integer.
constexpr float ROUNDING_SHIFT = 12582912.0f;

// Up to this angle the multiple of pi has so few bits that its products with the parts of pi are exact.
constexpr float MAX_FAST_ANGLE = 1e5f;

// sin and cos of x, both times `amplitude`, for |x| <= MAX_FAST_ANGLE.  x is reduced to [-pi/2, pi/2], where
// polynomials of degree 4 in x^2 have errors below 5e-9 (sin, relative) and 5e-8 (cos).
QKV_INLINE void sin_cos(Floats x, Floats amplitude, Floats& sine, Floats& cosine) {
  Floats shifted = x * 0.318309886183790672f + ROUNDING_SHIFT;
  Floats n = shifted - ROUNDING_SHIFT;
  Floats r = x - n * 3.140625f;
  r = r - n * 0.0009675025939941406f;
  r = r - n * 1.5099580252808664e-07f;
  Floats u = r * r;
  Floats s = u * 2.605092946e-06f - 0.0001980901469f;
  Floats c = u * 2.315237521e-05f - 0.001385363243f;
  s = s * u + 0.008333050199f;
  c = c * u + 0.04166357437f;
  s = s * u - 0.1666665795f;
  c = c * u - 0.4999990488f;
  s = s * u + 0.9999999957f;
  c = c * u + 0.9999999531f;
  Floats signed_amplitude = as_floats(as_ints(amplitude) ^ (as_ints(shifted) << 31));
  sine = (r * signed_amplitude) * s;
  cosine = signed_amplitude * c;
}

// The same for x of any size: the C library reduces it with as many digits of pi as necessary.
inline void sin_cos_any_angle(Floats x, Floats amplitude, Floats& sine, Floats& cosine) {
  for (int i = 0; i < L; ++i) sine[i] = std::sin(x[i]), cosine[i] = std::cos(x[i]);
  sine *= amplitude, cosine *= amplitude;
}

// exp(x), 0 below -87: no subnormal numbers, exp(-inf) = 0, and exp(NaN) is NaN.
QKV_INLINE Floats exponential(Floats x) {
  Ints is_small = x < -87.0f;
  x = vector_min(broadcast(88.0f), vector_max(broadcast(-87.0f), x));
  Floats shifted = x * 1.44269504088896341f + ROUNDING_SHIFT;
  Floats n = shifted - ROUNDING_SHIFT;
  Floats r = x - n * 0.693115234375f;
  r = r - n * 3.194618329871446e-05f;
  Floats p = r * 0.008375212703f + 0.04191803292f;
  p = p * r + 0.1666641447f;
  p = p * r + 0.4999886457f;
  p = p * r + 1.000000038f;
  p = p * r + 1.000000076f;
  Floats power = as_floats((as_ints(shifted) << 23) + broadcast_int(127 << 23));
  return is_small ? Floats{} : p * power;
}

// Interleaves the lanes of the first halves of a and b, or of their second halves: a0 b0 a1 b1 ...
QKV_INLINE Floats interleave(Floats a, Floats b, bool second_half) {
  Ints mask{};
  for (int i = 0; i < L; ++i) mask[i] = (i % 2) * L + i / 2 + (second_half ? L / 2 : 0);
  return __builtin_shuffle(a, b, mask);
}

// Transposes L rows of L floats in place: log L rounds that interleave row i with row i + L/2.
QKV_INLINE void transpose(Floats (&row)[L]) {
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    Floats next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = interleave(row[i], row[i + L / 2], false);
      next[2 * i + 1] = interleave(row[i], row[i + L / 2], true);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) row[i] = next[i];
  }
}

// Lane i of the result is the sum of row i.
QKV_INLINE Floats sum_rows(Floats (&row)[L]) {
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      row[i] = interleave(row[i], row[i + half], false) + interleave(row[i], row[i + half], true);
  return row[0];
}

QKV_INLINE float from_bfloat16(uint16_t x) {
  uint32_t word = uint32_t(x) << 16;
  float out;
  std::memcpy(&out, &word, 4);
  return out;
}

// Rounds to bfloat16, to nearest even; NaN stays NaN.
QKV_INLINE uint16_t to_bfloat16(float x) {
  uint32_t word;
  std::memcpy(&word, &x, 4);
  bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
  return is_nan ? 0x7fc0 : uint16_t((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

}  // namespace QKV_ISA
}  // namespace qkv
