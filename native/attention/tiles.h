// The eight AMX tile registers as this kernel uses them: thin names, a configuration that is restored, denormals off.
//
// Tiles 0 to 5 accumulate, tile 6 is the left operand, tile 7 the right one. All have 16 rows of 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace diffoundry {
namespace {

struct alignas(64) TileConfig {
    uint8_t palette = 0;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

// The register number is part of the instruction, so it must be a literal for some compilers.
#define DIFFOUNDRY_EACH_ACCUMULATOR(F) \
    switch (R) {                       \
        case 0: F(0); break;           \
        case 1: F(1); break;           \
        case 2: F(2); break;           \
        case 3: F(3); break;           \
        case 4: F(4); break;           \
        default: F(5); break;          \
    }
#define DIFFOUNDRY_ZERO(r) _tile_zero(r)
#define DIFFOUNDRY_LOAD(r) _tile_loadd(r, from, 64)
#define DIFFOUNDRY_STORE(r) _tile_stored(r, to, 64)
#define DIFFOUNDRY_MULTIPLY(r) _tile_dpbf16ps(r, 6, 7)

// GCC does not know that the instructions read memory: stores before them must not move behind them.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

struct Tiles {
    template <int R> static void zero() { DIFFOUNDRY_EACH_ACCUMULATOR(DIFFOUNDRY_ZERO) }

    template <int R> static void load(const void* from) {
        finish_stores();
        DIFFOUNDRY_EACH_ACCUMULATOR(DIFFOUNDRY_LOAD)
    }

    template <int R> static void store(void* to) { DIFFOUNDRY_EACH_ACCUMULATOR(DIFFOUNDRY_STORE) }

    static void load_left(const void* from) {
        finish_stores();
        _tile_loadd(6, from, 64);
    }

    static void load_right(const void* from) {
        finish_stores();
        _tile_loadd(7, from, 64);
    }

    // Accumulator R += left (16 x 32 bfloat16) times right (16 pairs x 16 columns).
    template <int R> static void multiply() { DIFFOUNDRY_EACH_ACCUMULATOR(DIFFOUNDRY_MULTIPLY) }
};

// While it lives, this thread's tiles have our shape, and denormal results are zero (they would cost microcode).
// The thread's earlier configuration is restored: oneDNN's kernels keep their configuration between calls.
class TileSession {
public:
    TileSession() : control_(_mm_getcsr()) {
        _tile_storeconfig(&before_);
        TileConfig ours;
        ours.palette = 1;
        for (int i = 0; i < 8; i++) ours.row_bytes[i] = 64, ours.rows[i] = 16;
        configure(ours);
        _mm_setcsr(control_ | 0x8040);  // flush to zero, denormals are zero
    }

    ~TileSession() {
        _mm_setcsr(control_);
        if (before_.palette == 0)
            _tile_release();
        else
            configure(before_);
    }

    TileSession(const TileSession&) = delete;
    TileSession& operator=(const TileSession&) = delete;

private:
    static void configure(const TileConfig& config) {
        __asm__ volatile("" ::"r"(&config) : "memory");
        _tile_loadconfig(&config);
    }

    TileConfig before_;
    unsigned control_;
};

#undef DIFFOUNDRY_EACH_ACCUMULATOR
#undef DIFFOUNDRY_ZERO
#undef DIFFOUNDRY_LOAD
#undef DIFFOUNDRY_STORE
#undef DIFFOUNDRY_MULTIPLY

}  // namespace
}  // namespace diffoundry
