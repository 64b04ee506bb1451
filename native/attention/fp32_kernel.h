// Attention in float32, once for AVX2 and once for AVX-512: the including file defines `Simd`.
//
// Computed transposed, S^T = K Q^T and O^T = V^T P^T, with queries along the vector lanes: both products are then the same
// loop (one broadcast value times registers of queries), and maxima and sums need no shuffles.
#pragma once

#include <algorithm>

#include "kernel.h"
#include "rows.h"

namespace diffoundry {
namespace {

using V = Simd::V;

constexpr size_t QUERIES = Simd::LANES * Simd::COLUMNS;  // of one block
constexpr size_t KEYS = 64;                              // of one step
constexpr float LEAST = -126.0f, MOST = 120.0f;          // exponents that stay normal floats

size_t key_bytes(const Problem& p) { return round_up(round_up(p.keys, Simd::ROWS) * p.width * sizeof(float), 64); }

size_t packed_bytes(const Problem& p) { return key_bytes(p) + round_up(p.keys * p.value_width * sizeof(float), 64); }

size_t scratch_bytes(const Problem& p) { return (KEYS + p.width + p.value_width + 2) * QUERIES * sizeof(float); }

float* values_in(const Problem& p, void* packed) {
    return reinterpret_cast<float*>(static_cast<char*>(packed) + key_bytes(p));
}

// K and V as float32 rows, one after the other. Missing keys are zero rows, which are not counted.
void pack(const Problem& p, size_t b, size_t h, size_t first_key, size_t last_key, void* packed) {
    float* keys = static_cast<float*>(packed);
    float* values = values_in(p, packed);
    for (size_t key = first_key; key < last_key; key++) {
        load_row(p.k, b, h, key, p.width, keys + key * p.width);
        load_row(p.v, b, h, key, p.value_width, values + key * p.value_width);
    }
    for (size_t i = last_key * p.width; i < round_up(last_key, Simd::ROWS) * p.width; i++) keys[i] = 0.0f;
}

// C (ROWS x QUERIES) = or += A (ROWS x depth) times B (depth x QUERIES).
template <bool ADD> void product(const float* a, size_t a_row, size_t a_column, const float* b, size_t depth, float* c) {
    V sum[Simd::ROWS][Simd::COLUMNS];
    for (size_t r = 0; r < Simd::ROWS; r++)
        for (size_t j = 0; j < Simd::COLUMNS; j++)
            sum[r][j] = ADD ? Simd::load(c + r * QUERIES + j * Simd::LANES) : Simd::zero();
    for (size_t k = 0; k < depth; k++) {
        V right[Simd::COLUMNS];
        for (size_t j = 0; j < Simd::COLUMNS; j++) right[j] = Simd::load(b + k * QUERIES + j * Simd::LANES);
        for (size_t r = 0; r < Simd::ROWS; r++) {
            const V left = Simd::all(a[r * a_row + k * a_column]);
            for (size_t j = 0; j < Simd::COLUMNS; j++) sum[r][j] = Simd::fma(left, right[j], sum[r][j]);
        }
    }
    for (size_t r = 0; r < Simd::ROWS; r++)
        for (size_t j = 0; j < Simd::COLUMNS; j++) Simd::store(c + r * QUERIES + j * Simd::LANES, sum[r][j]);
}

// 2^y: y = n + f with f in [-1/2, 1/2], a minimax polynomial in f (relative error 9e-8), then the exponent.
V exp2(V y) {
    y = Simd::within(y, LEAST, MOST);
    const V n = Simd::nearest(y), f = Simd::sub(y, n);
    V p = Simd::fma(f, Simd::all(1.326472731e-3f), Simd::all(9.671512991e-3f));
    p = Simd::fma(p, f, Simd::all(5.550733581e-2f));
    p = Simd::fma(p, f, Simd::all(2.402224243e-1f));
    p = Simd::fma(p, f, Simd::all(6.931470037e-1f));
    return Simd::power(Simd::fma(p, f, Simd::all(1.0f)), n);
}

// One block of queries against all keys of one head.
class Block {
public:
    Block(const Problem& p, const void* packed, void* scratch)
        : p_(p), keys_(static_cast<const float*>(packed)), values_(values_in(p, const_cast<void*>(packed))),
          scores_(static_cast<float*>(scratch)), queries_(scores_ + KEYS * QUERIES),
          output_(queries_ + p.width * QUERIES), maxima_(output_ + p.value_width * QUERIES), sums_(maxima_ + QUERIES),
          factor_(p.scale * 1.44269504f) {}

    void run(size_t b, size_t h, size_t first) {
        const size_t count = std::min(QUERIES, p_.queries - first);
        load_queries(b, h, first, count);
        find_maxima(std::min(KEYS, p_.keys));
        if (!attend(true)) {
            find_maxima(p_.keys);
            attend(false);
        }
        store_output(b, h, first, count);
    }

private:
    // Q^T. Queries that do not exist are zero.
    void load_queries(size_t b, size_t h, size_t first, size_t count) {
        float rows[8][MAX_WIDTH];
        for (size_t i = 0; i < QUERIES; i += 8) {
            for (size_t r = 0; r < 8; r++)
                if (i + r < count)
                    load_row(p_.q, b, h, first + i + r, p_.width, rows[r]);
                else
                    std::fill_n(rows[r], p_.width, 0.0f);
            for (size_t d = 0; d < p_.width; d += 8) {
                __m256 block[8];
                for (size_t r = 0; r < 8; r++) block[r] = _mm256_loadu_ps(rows[r] + d);
                transpose_8x8(block);
                for (size_t r = 0; r < 8; r++) _mm256_store_ps(queries_ + (d + r) * QUERIES + i, block[r]);
            }
        }
    }

    // S^T of up to KEYS keys.
    void score(size_t first, size_t count) {
        for (size_t i = 0; i < count; i += Simd::ROWS)
            product<false>(keys_ + (first + i) * p_.width, p_.width, 1, queries_, p_.width, scores_ + i * QUERIES);
    }

    // Of scale * log2(e) * score, over so many keys.
    void find_maxima(size_t keys) {
        const V factor = Simd::all(factor_);
        for (size_t lane = 0; lane < QUERIES; lane += Simd::LANES) Simd::store(maxima_ + lane, Simd::all(-3.4e38f));
        for (size_t first = 0; first < keys; first += KEYS) {
            const size_t count = std::min(KEYS, keys - first);
            score(first, count);
            for (size_t lane = 0; lane < QUERIES; lane += Simd::LANES) {
                V most = Simd::load(maxima_ + lane);
                for (size_t i = 0; i < count; i++)
                    most = Simd::max(most, Simd::mul(factor, Simd::load(scores_ + i * QUERIES + lane)));
                Simd::store(maxima_ + lane, most);
            }
        }
    }

    void exponentials(size_t count) {
        const V factor = Simd::all(factor_);
        for (size_t lane = 0; lane < QUERIES; lane += Simd::LANES) {
            const V most = Simd::load(maxima_ + lane);
            V sum = Simd::zero();  // of these keys alone: fewer roundings than one long sum
            for (size_t i = 0; i < count; i++) {
                float* at = scores_ + i * QUERIES + lane;
                const V e = exp2(Simd::fms(Simd::load(at), factor, most));
                sum = Simd::add(sum, e);
                Simd::store(at, e);
            }
            Simd::store(sums_ + lane, Simd::add(Simd::load(sums_ + lane), sum));
        }
    }

    // False when some score exceeded the maxima by so much that the sums are invalid. `scored`: the scores of the
    // first keys are there already.
    bool attend(bool scored) {
        std::fill_n(output_, p_.value_width * QUERIES, 0.0f);
        std::fill_n(sums_, QUERIES, 0.0f);
        for (size_t first = 0; first < p_.keys; first += KEYS) {
            const size_t count = std::min(KEYS, p_.keys - first);
            if (first > 0 || !scored) score(first, count);
            exponentials(count);
            const float* values = values_ + first * p_.value_width;
            for (size_t d = 0; d < p_.value_width; d += Simd::ROWS)
                product<true>(values + d, 1, p_.value_width, scores_, count, output_ + d * QUERIES);
        }
        bool good = true;
        for (size_t lane = 0; lane < QUERIES; lane += Simd::LANES)
            good = good && Simd::all_less(Simd::load(sums_ + lane), Simd::all(LARGEST_SUM));
        return good;
    }

    void store_output(size_t b, size_t h, size_t first, size_t count) {
        float rows[8][MAX_WIDTH];
        for (size_t i = 0; i < count; i += 8) {
            const __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm256_load_ps(sums_ + i));
            for (size_t d = 0; d < p_.value_width; d += 8) {
                __m256 block[8];
                for (size_t r = 0; r < 8; r++)
                    block[r] = _mm256_mul_ps(inverse, _mm256_load_ps(output_ + (d + r) * QUERIES + i));
                transpose_8x8(block);
                for (size_t r = 0; r < 8; r++) _mm256_storeu_ps(rows[r] + d, block[r]);
            }
            for (size_t r = 0; r < 8 && i + r < count; r++)
                store_row(p_.out, b, h, first + i + r, p_.value_width, rows[r]);
        }
    }

    const Problem& p_;
    const float* keys_;
    const float* values_;
    float* scores_;
    float* queries_;
    float* output_;
    float* maxima_;
    float* sums_;
    const float factor_;
};

void run(const Problem& p, size_t b, size_t h, size_t first, size_t last, const void* packed, void* scratch) {
    Block block(p, packed, scratch);
    for (size_t query = first; query < last; query += QUERIES) block.run(b, h, query);
}

}  // namespace
}  // namespace diffoundry
