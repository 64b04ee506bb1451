// Reads and writes rows of a tensor as float32, whatever its type, and turns them around. Needs AVX2 and F16C; widths are
// multiples of 8.
#pragma once

#include <immintrin.h>

#include "problem.h"

namespace diffoundry {
namespace {

inline void load_row(const Tensor& t, size_t b, size_t h, size_t s, size_t width, float* to) {
    const char* from = t.at(b, h, s);
    for (size_t i = 0; i < width; i += 8) {
        if (t.type == Type::f32) {
            _mm256_storeu_ps(to + i, _mm256_loadu_ps(reinterpret_cast<const float*>(from) + i));
            continue;
        }
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i));
        const __m256i high = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
        _mm256_storeu_ps(to + i, t.type == Type::f16 ? _mm256_cvtph_ps(half) : _mm256_castsi256_ps(high));
    }
}

// To nearest, ties to even.
inline __m128i to_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i high = _mm256_srli_epi32(
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
}

inline void store_row(const Tensor& t, size_t b, size_t h, size_t s, size_t width, const float* from) {
    char* to = t.at(b, h, s);
    for (size_t i = 0; i < width; i += 8) {
        const __m256 x = _mm256_loadu_ps(from + i);
        if (t.type == Type::f32) {
            _mm256_storeu_ps(reinterpret_cast<float*>(to) + i, x);
            continue;
        }
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i),
                         t.type == Type::f16 ? _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT) : to_bf16(x));
    }
}

inline void transpose_8x8(__m256 (&r)[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {  // row i + j of every 128-bit lane now holds a column
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

}  // namespace
}  // namespace diffoundry
