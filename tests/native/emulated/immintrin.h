// The compiler's header of processor instructions, emulated by SIMD Everywhere (Debian's libsimde-dev): kernels run on any
// processor. Below is what that library lacks.
#pragma once

#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

using __mmask16 = uint16_t;
using __mmask32 = uint32_t;
#define _cvtu32_mask32(x) (static_cast<__mmask32>(x))

template <class To, class From> To emulated_from(const From (&values)[sizeof(To) / sizeof(From)]) {
    To to;
    std::memcpy(&to, values, sizeof to);
    return to;
}

inline __m512i _mm512_maskz_loadu_epi16(__mmask32 mask, const void* from) {
    uint16_t values[32] = {};
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1) std::memcpy(values + i, static_cast<const uint16_t*>(from) + i, 2);
    return emulated_from<__m512i>(values);
}

inline void _mm256_mask_storeu_epi16(void* to, __mmask16 mask, __m256i x) {
    uint16_t values[16];
    std::memcpy(values, &x, sizeof values);
    for (int i = 0; i < 16; i++)
        if (mask >> i & 1) std::memcpy(static_cast<uint16_t*>(to) + i, values + i, 2);
}

inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
    uint16_t values[16];
    std::memcpy(values, &x, sizeof values);
    uint32_t wide[16];
    for (int i = 0; i < 16; i++) wide[i] = values[i];
    return emulated_from<__m512i>(wide);
}

inline __m256i _mm512_cvtepi32_epi16(__m512i x) {
    uint32_t values[16];
    std::memcpy(values, &x, sizeof values);
    uint16_t narrow[16];
    for (int i = 0; i < 16; i++) narrow[i] = static_cast<uint16_t>(values[i]);
    return emulated_from<__m256i>(narrow);
}

inline __m512i _mm512_zextsi256_si512(__m256i x) {
    uint32_t values[16] = {};
    std::memcpy(values, &x, sizeof x);
    return emulated_from<__m512i>(values);
}

// y - floor(y), as the only control that the kernel passes.
inline __m512 emulated_reduce(__m512 y) {
    float values[16];
    std::memcpy(values, &y, sizeof values);
    for (float& value : values) value -= std::floor(value);
    return emulated_from<__m512>(values);
}
#define _mm512_reduce_ps(y, control) emulated_reduce(y)
