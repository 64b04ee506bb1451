// Eight floats in an AVX2 register, for fp32_kernel.h.
#pragma once

#include <immintrin.h>

namespace diffoundry {
namespace {

struct Simd {
    static constexpr size_t LANES = 8;
    static constexpr size_t ROWS = 4, COLUMNS = 3;  // of the product's register block: 12 of 16 registers accumulate
    using V = __m256;

    static V load(const float* p) { return _mm256_load_ps(p); }
    static void store(float* p, V v) { _mm256_store_ps(p, v); }
    static V all(float x) { return _mm256_set1_ps(x); }
    static V zero() { return _mm256_setzero_ps(); }
    static V add(V a, V b) { return _mm256_add_ps(a, b); }
    static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
    static V fms(V a, V b, V c) { return _mm256_fmsub_ps(a, b, c); }
    static V max(V a, V b) { return _mm256_max_ps(a, b); }
    static V within(V a, float least, float most) {  // in this order a NaN stays one
        return _mm256_min_ps(all(most), _mm256_max_ps(all(least), a));
    }
    static bool all_less(V a, V b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) == 0xff; }
    static V nearest(V a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static V power(V p, V n) {  // p * 2^n, n whole
        const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
        return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
    }
};

}  // namespace
}  // namespace diffoundry
