// Queries, keys and values of one head as the tiles that are multiplied; all of them are 1024 bytes.
#pragma once

#include <algorithm>

#include "problem.h"
#include "transpose.h"

namespace diffoundry {
namespace {

using bf16 = uint16_t;

constexpr bf16 ONE = 0x3f80;
constexpr size_t UNIT = 32;   // keys of one step: two tiles of scores, one tile of exponentials
constexpr size_t TILE = 512;  // bfloat16 values of a tile

struct Sizes {
    size_t chunks;  // tiles along the width of Q and K
    size_t tiles;   // tiles along the width of V and O, with the row of ones
    size_t units;

    explicit Sizes(const Problem& p)
        : chunks((p.width + 31) / 32), tiles(p.value_width / 16 + 1), units((p.keys + UNIT - 1) / UNIT) {}

    size_t key_values() const { return units * 2 * chunks * TILE; }
    size_t value_values() const { return units * tiles * TILE; }
};

size_t packed_bytes(const Problem& p) {
    const Sizes n(p);
    return (n.key_values() + n.value_values()) * sizeof(bf16);
}

// Mask of the existing lanes in a row of 32 values, `left` of which remain.
__mmask32 first_of_32(size_t left) { return _cvtu32_mask32(~0u >> (left < 32 ? 32 - left : 0)); }

// K: [unit][2][chunk] tiles of 16 keys x 32. The last key repeats as padding, which keeps its scores finite.
void pack_keys(const Problem& p, const Sizes& n, size_t b, size_t h, size_t first_unit, size_t last_unit, bf16* to) {
    for (size_t tile = 2 * first_unit; tile < 2 * last_unit; tile++)
        for (size_t row = 0; row < 16; row++) {
            const size_t key = std::min(tile * 16 + row, p.keys - 1);
            const bf16* from = reinterpret_cast<const bf16*>(p.k.at(b, h, key));
            for (size_t c = 0; c < n.chunks; c++) {
                const __m512i part = _mm512_maskz_loadu_epi16(first_of_32(p.width - 32 * c), from + 32 * c);
                _mm512_store_si512(to + (tile * n.chunks + c) * TILE + row * 32, part);
            }
        }
}

// Sixteen dimensions of one key's values as 32-bit numbers; zeros beyond the end.
__m512i load_values(const Problem& p, size_t b, size_t h, size_t key, size_t tile) {
    const size_t left = p.value_width - 16 * tile;  // a multiple of 8
    if (key >= p.keys || left == 0) return _mm512_setzero_si512();
    const __m256i* from = reinterpret_cast<const __m256i*>(p.v.at(b, h, key)) + tile;
    if (left >= 16) return _mm512_cvtepu16_epi32(_mm256_loadu_si256(from));
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return _mm512_zextsi256_si512(_mm256_cvtepu16_epi32(half));
}

// V^T: [unit][tile] tiles of 16 dimensions x 32 keys; the row after the last dimension is ones.
void pack_values(const Problem& p, const Sizes& n, size_t b, size_t h, size_t first_unit, size_t last_unit, bf16* to) {
    to += first_unit * n.tiles * TILE;
    for (size_t unit = first_unit; unit < last_unit; unit++)
        for (size_t tile = 0; tile < n.tiles; tile++, to += TILE) {
            __m512i rows[16];
            for (size_t pair = 0; pair < 16; pair++) {
                const size_t key = unit * UNIT + 2 * pair;
                const __m512i even = load_values(p, b, h, key, tile), odd = load_values(p, b, h, key + 1, tile);
                rows[pair] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
            }
            transpose_16x16(rows);
            for (size_t i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, rows[i]);
            if (tile != p.value_width / 16) continue;
            bf16* ones = to + 32 * (p.value_width % 16);
            for (size_t i = 0; i < UNIT; i++) ones[i] = unit * UNIT + i < p.keys ? ONE : 0;
        }
}

// Q^T of up to 16 queries: [chunk] tiles of 16 pairs of dimensions x 16 queries. Queries that do not exist are zero.
void pack_queries(const Problem& p, const Sizes& n, size_t b, size_t h, size_t first, size_t count, bf16* to) {
    for (size_t c = 0; c < n.chunks; c++, to += TILE) {
        __m512i rows[16];
        for (size_t i = 0; i < 16; i++) {
            const bf16* from = reinterpret_cast<const bf16*>(p.q.at(b, h, first + i)) + 32 * c;
            rows[i] = i < count ? _mm512_maskz_loadu_epi16(first_of_32(p.width - 32 * c), from) : _mm512_setzero_si512();
        }
        transpose_16x16(rows);
        for (size_t i = 0; i < 16; i++) _mm512_store_si512(to + 32 * i, rows[i]);
    }
}

}  // namespace
}  // namespace diffoundry
