// Mersenne Twister 19937 and torch's float32 Box-Muller transform, compiled once for each instruction set.
//
// The loops are plain C++ that every compiler turns into vectors; `fmaf` is one instruction where the CPU has it and a
// correctly rounded library call elsewhere, so each instruction set gives the same bits. Contraction of
// products and sums that are not written as `fmaf` is off (see CMakeLists.txt).
//
// Nothing here may be an inline function of a header: the linker could keep the copy of the largest instruction set.

#include "kernels.h"

#include <math.h>
#include <string.h>

namespace diffoundry_random {
namespace DIFFOUNDRY_LEVEL {
namespace {

constexpr int kShift = 397;
constexpr int kBlock = 16;       // uniforms that torch transforms together: 8 radii, then 8 angles
constexpr int kHalf = kBlock / 2;
constexpr int kPairs = 512;      // transformed at once: the buffers below stay in the first-level cache

// Matsumoto and Nishimura 1998, equation 2.1: the next word from two of the last 624 and the one 397 on.
inline uint32_t twisted(uint32_t upper, uint32_t lower, uint32_t shifted) {
  const uint32_t mixed = (upper & 0x80000000u) | (lower & 0x7fffffffu);
  return shifted ^ (mixed >> 1) ^ ((0u - (lower & 1u)) & 0x9908b0dfu);
}

void next_state(uint32_t* words) {
  for (int i = 0; i < kStateWords - kShift; ++i) words[i] = twisted(words[i], words[i + 1], words[i + kShift]);
  for (int i = kStateWords - kShift; i < kStateWords - 1; ++i) {
    words[i] = twisted(words[i], words[i + 1], words[i + kShift - kStateWords]);
  }
  words[kStateWords - 1] = twisted(words[kStateWords - 1], words[0], words[kShift - 1]);
}

void temper(const uint32_t* words, uint32_t* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t y = words[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    out[i] = y ^ (y >> 18);
  }
}

// sqrt(-2 log(1 - u)), u = (word mod 2^24) / 2^24, with the logarithm of Cephes as in torch's `_mm256_log_ps`:
// 1 - u = m 2^e with m in [sqrt(1/2), sqrt(2)), log(1 + d) = d - d^2 / 2 + d^3 P(d) with d = m - 1.
inline float radius(uint32_t word) {
  const float x = 1.0f - static_cast<float>(static_cast<int32_t>(word & 0xffffffu)) * 0x1p-24f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t mantissa_bits = (bits & 0x007fffffu) | 0x3f000000u;
  float mantissa;
  memcpy(&mantissa, &mantissa_bits, sizeof mantissa);
  const bool small = mantissa < 0.707106781186547524f;
  const float e = static_cast<float>(static_cast<int32_t>(bits >> 23) - (small ? 127 : 126));
  const float d = (small ? mantissa + mantissa : mantissa) - 1.0f;
  const float square = d * d;
  float y = fmaf(d, 7.0376836292e-2f, -1.1514610310e-1f);
  y = fmaf(y, d, 1.1676998740e-1f);
  y = fmaf(y, d, -1.2420140846e-1f);
  y = fmaf(y, d, 1.4249322787e-1f);
  y = fmaf(y, d, -1.6668057665e-1f);
  y = fmaf(y, d, 2.0000714765e-1f);
  y = fmaf(y, d, -2.4999993993e-1f);
  y = fmaf(y, d, 3.3333331174e-1f);
  y = y * d;
  y = fmaf(y, square, e * -2.12194440e-4f);
  y = fmaf(square, -0.5f, y);
  const float log = fmaf(e, 0.693359375f, d + y);
  return sqrtf(log * -2.0f);
}

struct Direction {
  float cosine, sine;
};

// Cosine and sine of 2 pi u by the polynomials of Cephes, as in torch's `_mm256_sincos_ps`:
// 2 pi u = j pi / 4 + x with j even and x in [-pi / 4, pi / 4]; j chooses between the polynomials and the signs.
inline Direction direction(uint32_t word) {
  const float theta = static_cast<float>(static_cast<int32_t>(word & 0xffffffu)) * 0x1p-24f * 6.283185307179586f;
  const int32_t j = (static_cast<int32_t>(theta * 1.27323954473516f) + 1) & ~1;
  const float octant = static_cast<float>(j);
  float x = fmaf(octant, -0.78515625f, theta);
  x = fmaf(octant, -2.4187564849853515625e-4f, x);
  x = fmaf(octant, -3.77489497744594108e-8f, x);
  const float square = x * x;
  float c = fmaf(square, 2.443315711809948e-5f, -1.388731625493765e-3f);
  c = fmaf(c, square, 4.166664568298827e-2f);
  c = c * square;
  c = fmaf(c, square, square * -0.5f) + 1.0f;
  float s = fmaf(square, -1.9515295891e-4f, 8.3321608736e-3f);
  s = fmaf(s, square, -1.6666654611e-1f);
  s = s * square;
  s = fmaf(s, x, x);
  const bool swapped = (j & 2) != 0;
  const float first = swapped ? s : c, second = swapped ? c : s;
  return {((j + 2) & 4) != 0 ? -first : first, (j & 4) != 0 ? -second : second};
}

void box_muller(const uint32_t* words, float* out, int pairs) {
  alignas(64) uint32_t first[kPairs], second[kPairs];
  alignas(64) float cosine[kPairs], sine[kPairs];
  for (int i = 0; i < pairs; i += kHalf) {
    memcpy(first + i, words + 2 * i, kHalf * sizeof *words);
    memcpy(second + i, words + 2 * i + kHalf, kHalf * sizeof *words);
  }
  for (int i = 0; i < pairs; ++i) {
    const float r = radius(first[i]);
    const Direction to = direction(second[i]);
    cosine[i] = r * to.cosine + 0.0f;  // torch adds the mean: -0 becomes 0
    sine[i] = r * to.sine + 0.0f;
  }
  for (int i = 0; i < pairs; i += kHalf) {
    memcpy(out + 2 * i, cosine + i, kHalf * sizeof *out);
    memcpy(out + 2 * i + kHalf, sine + i, kHalf * sizeof *out);
  }
}

}  // namespace

void words(State* state, uint32_t* out, int64_t count) {
  while (count > 0) {
    if (state->position >= kStateWords) {
      next_state(state->words);
      state->position = 0;
    }
    const int64_t left = kStateWords - static_cast<int64_t>(state->position);
    const int64_t some = count < left ? count : left;
    temper(state->words + state->position, out, some);
    state->position += static_cast<uint32_t>(some);
    out += some;
    count -= some;
  }
}

void normals(State* state, float* out, int64_t count) {
  alignas(64) uint32_t buffer[2 * kPairs];
  while (count > 0) {
    const int some = count < 2 * kPairs ? static_cast<int>(count) : 2 * kPairs;
    words(state, buffer, some);
    box_muller(buffer, out, some / 2);
    out += some;
    count -= some;
  }
}

}  // namespace DIFFOUNDRY_LEVEL
}  // namespace diffoundry_random
