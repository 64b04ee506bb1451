// Attention with bfloat16 products and float32 sums, on tiles of 16 rows of 64 bytes, once for AMX and once for AVX512-BF16:
// the including file defines `Tiles`, eight of them, and `TileSession`.
//
// Computed transposed, S^T = K Q^T and O^T = V^T P^T, so that one register holds one key's scores of 16 queries: maxima
// need no shuffles, and two rows of exponentials interleave into exactly the layout of the next product. V^T has
// one more row, of ones: its product is the softmax's denominator, and zeros there and in V exclude padded keys.
#pragma once

#include <algorithm>

#include "bf16_pack.h"
#include "kernel.h"
#include "unroll.h"

namespace diffoundry {
namespace {

constexpr size_t LANES = 16;               // queries of one tile
constexpr int PAIRS = 16;                  // rows of a tile of exponentials: two keys each
constexpr size_t BLOCK = 16;               // units between two passes over V when O does not fit the registers
constexpr int GROUP = 4;                   // tiles of O that stay in registers
constexpr int MOST_CHUNKS = MAX_WIDTH / 32;
constexpr size_t QUERIES_PER_TASK = 128;

void pack(const Problem& p, size_t b, size_t h, size_t first_key, size_t last_key, void* packed) {
    static_assert(KEYS_PER_TASK % UNIT == 0);
    const Sizes n(p);
    bf16* to = static_cast<bf16*>(packed);
    const size_t first = first_key / UNIT, last = (last_key + UNIT - 1) / UNIT;
    pack_keys(p, n, b, h, first, last, to);
    pack_values(p, n, b, h, first, last, to + n.key_values());
}

struct alignas(64) Scratch {
    float scores[2][UNIT * LANES];
    bf16 exponentials[BLOCK * TILE];
    float maxima[LANES];  // of scale * log2(e) * score, subtracted before the exponential
    // then float output[tiles][16][LANES], bf16 queries[chunks][TILE]
};

size_t scratch_bytes(const Problem& p) {
    const Sizes n(p);
    return sizeof(Scratch) + n.tiles * 256 * sizeof(float) + n.chunks * TILE * sizeof(bf16);
}

// Sixteen queries against all keys of one head.
class Block {
public:
    Block(const Problem& p, const void* packed, void* scratch)
        : n_(p), keys_(static_cast<const bf16*>(packed)), values_(keys_ + n_.key_values()),
          s_(*static_cast<Scratch*>(scratch)), output_(reinterpret_cast<float*>(&s_ + 1)),
          queries_(reinterpret_cast<bf16*>(output_ + n_.tiles * 256)), factor_(p.scale * 1.44269504f) {}

    void run(const Problem& p, size_t b, size_t h, size_t first) {
        const size_t count = std::min(LANES, p.queries - first);
        pack_queries(p, n_, b, h, first, count, queries_);
        score(0, s_.scores[0]);
        find_maxima(0, 1);
        attend();
        const __m512 sums = _mm512_load_ps(output_ + p.value_width * LANES);
        if (_mm512_cmp_ps_mask(sums, _mm512_set1_ps(LARGEST_SUM), _CMP_LT_OQ) != 0xffff) {
            find_maxima(1, n_.units);
            score(0, s_.scores[0]);
            attend();
        }
        store_output(p, b, h, first, count);
    }

private:
    void score(size_t unit, float* to) {
        const bf16* keys = keys_of(unit);
        tiles_.zero<4>();
        tiles_.zero<5>();
        for (size_t c = 0; c < n_.chunks; c++) {
            multiply<4>(keys + c * TILE, queries_ + c * TILE);
            multiply<5>(keys + (n_.chunks + c) * TILE);
        }
        tiles_.store<4>(to);
        tiles_.store<5>(to + 256);
    }

    void find_maxima(size_t first, size_t last) {
        const __m512 factor = _mm512_set1_ps(factor_);
        __m512 most = first == 0 ? _mm512_set1_ps(-3.402823466e38f) : _mm512_load_ps(s_.maxima);
        for (size_t unit = first; unit < last; unit++) {
            if (unit) score(unit, s_.scores[0]);
            for (size_t i = 0; i < UNIT; i++)
                most = _mm512_max_ps(most, _mm512_mul_ps(factor, _mm512_load_ps(s_.scores[0] + i * LANES)));
        }
        _mm512_store_ps(s_.maxima, most);
    }

    // 2^y: y = n + f, a cubic in f (relative error 7e-5; a step of bfloat16 is 8e-3), then the exponent.
    static __m512 exp2(__m512 y) {
        const __m512 f = _mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF);
        __m512 p = _mm512_fmadd_ps(f, _mm512_set1_ps(0.07802452f), _mm512_set1_ps(0.22606716f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69583354f));
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.99992522f));
        return _mm512_scalef_ps(p, y);
    }

    // Rows `FROM` to `TO` of a unit's exponentials, rounded to bfloat16: two keys each.
    template <int FROM, int TO>
    static ALWAYS_INLINE void exponentials(const float* scores, bf16* to, __m512 factor, __m512 most) {
        const __m512i half = _mm512_set1_epi32(0x8000);
        for (int i = FROM; i < TO; i++) {
            const __m512 even = exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + 2 * i * LANES), factor, most));
            const __m512 odd = exp2(_mm512_fmsub_ps(_mm512_load_ps(scores + (2 * i + 1) * LANES), factor, most));
            const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
            const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
            _mm512_store_si512(to + 32 * i, _mm512_mask_blend_epi16(0xaaaaaaaa, low, high));
        }
    }

    // Accumulator R += left times the right tile.
    template <int R> ALWAYS_INLINE void multiply(const bf16* left) {
        tiles_.load_left(left);
        tiles_.multiply<R>();
    }

    template <int R> ALWAYS_INLINE void multiply(const bf16* left, const bf16* right) {
        tiles_.load_right(right);
        multiply<R>(left);
    }

    // O^T += V^T P^T of one unit, for the tiles of one group.
    template <int TILES> ALWAYS_INLINE void multiply_values(const bf16* values, const bf16* exponentials) {
        tiles_.load_right(exponentials);
        unroll<TILES>([&](auto t) { multiply<t>(values + t * TILE); });
    }

    template <int TILES> ALWAYS_INLINE void load_group(const float* output) {
        unroll<TILES>([&](auto t) { tiles_.load<t>(output + t * 256); });
    }

    template <int TILES> ALWAYS_INLINE void store_group(float* output) {
        unroll<TILES>([&](auto t) { tiles_.store<t>(output + t * 256); });
    }

    const bf16* keys_of(size_t unit) const { return keys_ + unit * 2 * n_.chunks * TILE; }
    bf16* row_of(size_t unit) { return s_.exponentials + unit % BLOCK * TILE; }
    const bf16* values_of(size_t unit, size_t tile) const { return values_ + (unit * n_.tiles + tile) * TILE; }

    // Units first to last with the first group of O in registers: scores of the unit after, exponentials of this one and
    // the product with V of the one before, interleaved so that neither the tile unit nor the vector unit waits.
    template <int CHUNKS, int TILES> void first_group(size_t first, size_t last) {
        constexpr int STEPS = 2 * CHUNKS + TILES + 2;
        const __m512 factor = _mm512_set1_ps(factor_), most = _mm512_load_ps(s_.maxima);
        load_group<TILES>(output_);
        for (size_t unit = first; unit < last; unit++) {
            const float* scores = s_.scores[unit % 2];
            float* next = s_.scores[(unit + 1) % 2];
            bf16* row = row_of(unit);
            const bf16* keys = keys_of(unit + 1);
            const bool has_next = unit + 1 < n_.units, has_last = unit > first;
            const auto step = [&](auto i) ALWAYS_INLINE {
                exponentials<i * PAIRS / STEPS, (i + 1) * PAIRS / STEPS>(scores, row, factor, most);
            };
            if (has_next) tiles_.zero<4>(), tiles_.zero<5>();
            unroll<CHUNKS>([&](auto c) ALWAYS_INLINE {
                if (has_next) multiply<4>(keys + c * TILE, queries_ + c * TILE);
                step(constant<2 * c>());
                if (has_next) multiply<5>(keys + (CHUNKS + c) * TILE);
                step(constant<2 * c + 1>());
            });
            if (has_next) tiles_.store<4>(next);
            step(constant<2 * CHUNKS>());
            const bf16* values = has_last ? values_of(unit - 1, 0) : nullptr;
            if (has_last) tiles_.load_right(row_of(unit - 1));
            unroll<TILES>([&](auto t) ALWAYS_INLINE {
                if (has_last) multiply<t>(values + t * TILE);
                step(constant<2 * CHUNKS + 1 + t>());
            });
            if (has_next) tiles_.store<5>(next + 256);
            step(constant<STEPS - 1>());
        }
        multiply_values<TILES>(values_of(last - 1, 0), row_of(last - 1));
        store_group<TILES>(output_);
    }

    template <int TILES> void other_group(size_t tile, size_t first, size_t last) {
        load_group<TILES>(output_ + tile * 256);
        for (size_t unit = first; unit < last; unit++)
            multiply_values<TILES>(values_of(unit, tile), row_of(unit));
        store_group<TILES>(output_ + tile * 256);
    }

    template <int TILES> void group(size_t tile, size_t first, size_t last) {
        if (tile) return other_group<TILES>(tile, first, last);
        unroll<MOST_CHUNKS>([&](auto c) {
            if (n_.chunks == c + 1) first_group<c + 1, TILES>(first, last);
        });
    }

    void attend() {
        for (size_t i = 0; i < n_.tiles * 256; i += LANES) _mm512_store_ps(output_ + i, _mm512_setzero_ps());
        const size_t groups = (n_.tiles + GROUP - 1) / GROUP, most = (n_.tiles + groups - 1) / groups;
        const size_t block = groups == 1 ? n_.units : BLOCK;
        for (size_t first = 0; first < n_.units; first += block) {
            const size_t last = std::min(first + block, n_.units);
            for (size_t tile = 0; tile < n_.tiles; tile += most)
                unroll<GROUP>([&](auto t) {
                    if (std::min(most, n_.tiles - tile) == t + 1) group<t + 1>(tile, first, last);
                });
        }
    }

    void store_output(const Problem& p, size_t b, size_t h, size_t first, size_t count) {
        const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_load_ps(output_ + p.value_width * LANES));
        for (size_t tile = 0; 16 * tile < p.value_width; tile++) {
            __m512i rows[16];
            for (size_t i = 0; i < 16; i++)
                rows[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_load_ps(output_ + (tile * 16 + i) * LANES), inverse));
            transpose_16x16(rows);
            const __mmask16 mask = p.value_width - 16 * tile < 16 ? 0xff : 0xffff;
            for (size_t i = 0; i < count; i++)
                _mm256_mask_storeu_epi16(reinterpret_cast<bf16*>(p.out.at(b, h, first + i)) + 16 * tile, mask,
                                         round_to_bf16(rows[i]));
        }
    }

    // To nearest, ties to even.
    static __m256i round_to_bf16(__m512i x) {
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
        const __m512i rounded = _mm512_add_epi32(x, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
    }

    Tiles tiles_;
    const Sizes n_;
    const bf16* keys_;
    const bf16* values_;
    Scratch& s_;
    float* output_;
    bf16* queries_;
    const float factor_;
};

void run(const Problem& p, size_t b, size_t h, size_t first, size_t last, const void* packed, void* scratch) {
    TileSession session;
    Block block(p, packed, scratch);
    for (size_t query = first; query < last; query += LANES) block.run(p, b, h, query);
}

}  // namespace
}  // namespace diffoundry
