// Vectors of QKV_LANES floats through the compiler's own vector types, and the functions on them.
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

QKV_INLINE Floats load(const float* from) { return *reinterpret_cast<const LooseFloats*>(from); }
QKV_INLINE void store(float* to, Floats x) { *reinterpret_cast<LooseFloats*>(to) = x; }
QKV_INLINE Floats all(float x) { return x - Floats{}; }
QKV_INLINE Ints all_int(int32_t x) { return x - Ints{}; }
// The larger and the smaller; where either is NaN, b: a bound goes first, so that NaN passes through.
QKV_INLINE Floats highest(Floats a, Floats b) { return a > b ? a : b; }
QKV_INLINE Floats lowest(Floats a, Floats b) { return a < b ? a : b; }
QKV_INLINE Ints bits(Floats x) { return (Ints)x; }
QKV_INLINE Floats floats(Ints x) { return (Floats)x; }

QKV_INLINE Ints lane_numbers() {
  Ints lanes{};
  for (int i = 0; i < L; ++i) lanes[i] = i;
  return lanes;
}

// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
constexpr float ROUNDER = 12582912.0f;

// Below this the multiple of pi has so few bits that its products with the parts of pi are exact.
constexpr float LARGEST_ANGLE = 1e5f;

// sin and cos of x, both times `amplitude`, for |x| <= LARGEST_ANGLE; x is brought into [-pi/2, pi/2], where
// polynomials in x^2 of degree 4 are within 5e-9 (sin, relative) and 5e-8 (cos).
QKV_INLINE void sin_cos(Floats x, Floats amplitude, Floats& sine, Floats& cosine) {
  Floats shifted = x * 0.318309886183790672f + ROUNDER;
  Floats n = shifted - ROUNDER;
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
  Floats turned = floats(bits(amplitude) ^ (bits(shifted) << 31));
  sine = (r * turned) * s;
  cosine = turned * c;
}

// The same for x of any size: the C library reduces it by as many digits of pi as that takes.
inline void sin_cos_of_any(Floats x, Floats amplitude, Floats& sine, Floats& cosine) {
  for (int i = 0; i < L; ++i) sine[i] = std::sin(x[i]), cosine[i] = std::cos(x[i]);
  sine *= amplitude, cosine *= amplitude;
}

// exp(x), 0 below -87: no subnormal numbers, exp(-inf) = 0, and exp(NaN) is NaN.
QKV_INLINE Floats exponential(Floats x) {
  Ints small = x < -87.0f;
  x = lowest(all(88.0f), highest(all(-87.0f), x));
  Floats shifted = x * 1.44269504088896341f + ROUNDER;
  Floats n = shifted - ROUNDER;
  Floats r = x - n * 0.693115234375f;
  r = r - n * 3.194618329871446e-05f;
  Floats p = r * 0.008375212703f + 0.04191803292f;
  p = p * r + 0.1666641447f;
  p = p * r + 0.4999886457f;
  p = p * r + 1.000000038f;
  p = p * r + 1.000000076f;
  Floats power = floats((bits(shifted) << 23) + all_int(127 << 23));
  return small ? Floats{} : p * power;
}

// The lanes of a and b in turn: a0 b0 a1 b1 ... of their first halves, or of their second.
QKV_INLINE Floats zip(Floats a, Floats b, bool second) {
  Ints mask{};
  for (int i = 0; i < L; ++i) mask[i] = (i % 2) * L + i / 2 + (second ? L / 2 : 0);
  return __builtin_shuffle(a, b, mask);
}

// L rows of L floats, transposed where they are: log L rounds of zipping row i with row i + L/2.
QKV_INLINE void transpose(Floats (&row)[L]) {
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    Floats next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = zip(row[i], row[i + L / 2], false);
      next[2 * i + 1] = zip(row[i], row[i + L / 2], true);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) row[i] = next[i];
  }
}

// Lane i of the result is the sum of row i.
QKV_INLINE Floats row_sums(Floats (&row)[L]) {
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      row[i] = zip(row[i], row[i + half], false) + zip(row[i], row[i + half], true);
  return row[0];
}

QKV_INLINE float from_half(uint16_t x) {
  uint32_t wide = uint32_t(x) << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

// bfloat16, rounded to nearest even; a NaN stays one.
QKV_INLINE uint16_t to_half(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, 4);
  bool nan = (wide & 0x7fffffffu) > 0x7f800000u;
  return nan ? 0x7fc0 : uint16_t((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
}

}  // namespace QKV_ISA
}  // namespace qkv
