// Sixteen floats in an AVX-512 register, for fp32_kernel.h.
#pragma once

#include <immintrin.h>

namespace diffoundry {
namespace {

struct Simd {
    static constexpr size_t LANES = 16;
    static constexpr size_t ROWS = 8, COLUMNS = 3;  // of the product's register block: 24 of 32 registers accumulate
    using V = __m512;

    static V load(const float* p) { return _mm512_load_ps(p); }
    static void store(float* p, V v) { _mm512_store_ps(p, v); }
    static V all(float x) { return _mm512_set1_ps(x); }
    static V zero() { return _mm512_setzero_ps(); }
    static V add(V a, V b) { return _mm512_add_ps(a, b); }
    static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
    static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
    static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
    static V fms(V a, V b, V c) { return _mm512_fmsub_ps(a, b, c); }
    static V max(V a, V b) { return _mm512_max_ps(a, b); }
    static V within(V a, float, float) { return a; }  // `power` reaches zero and infinity without clamping
    static bool all_less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff; }
    static V nearest(V a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static V power(V p, V n) { return _mm512_scalef_ps(p, n); }  // p * 2^n, n whole
};

}  // namespace
}  // namespace diffoundry
