// Eight tiles as the bfloat16 kernel uses them, in memory, multiplied by AVX512-BF16: `vdpbf16ps` adds two products to each of
// 16 sums. Tiles 0 to 5 accumulate; the operands are read where they lie. All have 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "unroll.h"

namespace diffoundry {
namespace {

class Tiles {
public:
    template <int R> void zero() { std::memset(sums_[R], 0, sizeof sums_[R]); }
    template <int R> void load(const void* from) { std::memcpy(sums_[R], from, sizeof sums_[R]); }
    template <int R> void store(void* to) const { std::memcpy(to, sums_[R], sizeof sums_[R]); }
    void load_left(const void* from) { left_ = static_cast<const char*>(from); }
    void load_right(const void* from) { right_ = static_cast<const char*>(from); }

    // Accumulator R += left (16 x 32 bfloat16) times right (16 pairs x 16 columns). Sixteen registers hold the sums, and each
    // pair of the left operand is broadcast from memory.
    template <int R> void multiply() {
        __m512 sum[16];
        unroll<16>([&](auto row) ALWAYS_INLINE { sum[row] = _mm512_load_ps(sums_[R] + 16 * row); });
        for (int pair = 0; pair < 16; pair++) {
            const __m512bh right = (__m512bh)_mm512_load_si512(right_ + 64 * pair);
            unroll<16>([&](auto row) ALWAYS_INLINE {
                int32_t two;
                std::memcpy(&two, left_ + 64 * row + 4 * pair, sizeof two);
                sum[row] = _mm512_dpbf16_ps(sum[row], right, (__m512bh)_mm512_set1_epi32(two));
            });
        }
        unroll<16>([&](auto row) ALWAYS_INLINE { _mm512_store_ps(sums_[R] + 16 * row, sum[row]); });
    }

private:
    alignas(64) float sums_[6][256];
    const char* left_ = nullptr;
    const char* right_ = nullptr;
};

// While it lives, denormal results of this thread are zero, as the instruction has them.
class TileSession {
public:
    TileSession() : control_(_mm_getcsr()) { _mm_setcsr(control_ | 0x8040); }
    ~TileSession() { _mm_setcsr(control_); }
    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

private:
    unsigned control_;
};

}  // namespace
}  // namespace diffoundry
