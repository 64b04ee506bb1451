// Interface of each processor path: keys and values are packed once a head, then blocks of queries run on any thread.
#pragma once

#include "problem.h"

namespace diffoundry {

// Scores are exponentiated relative to the largest score of each query among the first keys. Later keys may exceed it; as
// long as the sum of the exponentials stays below this bound, nothing is lost in float32. Above it the block of queries is
// computed again with the exact maximum.
constexpr float LARGEST_SUM = 18446744073709551616.0f;  // 2^64

// Keys that are packed at a time, of all heads: their rows lie together in memory.
constexpr size_t KEYS_PER_TASK = 128;

struct Kernel {
    size_t queries_per_task;
    size_t (*packed_bytes)(const Problem&);   // of one head's keys and values; a multiple of 64
    size_t (*scratch_bytes)(const Problem&);  // of one thread
    void (*pack)(const Problem&, size_t batch, size_t head, size_t first_key, size_t last_key, void* packed);
    void (*run)(const Problem&, size_t batch, size_t head, size_t first_query, size_t last_query, const void* packed,
                void* scratch);
};

// `packed` and `scratch` are aligned to 64 bytes. `first_key` is a multiple of KEYS_PER_TASK, `last_key` one or the end.
extern const Kernel amx_kernel;
extern const Kernel avx512bf16_kernel;
extern const Kernel avx512_kernel;
extern const Kernel avx2_kernel;

}  // namespace diffoundry
