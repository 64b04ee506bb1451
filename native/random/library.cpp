// The C interface: one state, one thread; nothing is kept between calls.
//
// A level is a set of instructions: 0 the base of this architecture, 1 AVX2 with FMA, 2 AVX-512. The caller
// asks for the best one once and passes it to each call; all of them give the same bits.

#include "kernels.h"

#if defined(_WIN32)
#define DIFFOUNDRY_EXPORT extern "C" __declspec(dllexport)
#else
#define DIFFOUNDRY_EXPORT extern "C" __attribute__((visibility("default")))
#endif

using diffoundry_random::State;

// Version of this interface; a caller refuses a library of another one.
DIFFOUNDRY_EXPORT int32_t diffoundry_random_abi() { return 1; }

// The highest level that this library and this CPU have.
DIFFOUNDRY_EXPORT int32_t diffoundry_random_level() {
#ifdef DIFFOUNDRY_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return 2;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

// Matsumoto's init_genrand: 624 words from 32 bits, all of them used up.
DIFFOUNDRY_EXPORT void diffoundry_random_seed(State* state, uint32_t seed) {
  state->words[0] = seed;
  for (uint32_t i = 1; i < diffoundry_random::kStateWords; ++i) {
    const uint32_t before = state->words[i - 1];
    state->words[i] = 1812433253u * (before ^ (before >> 30)) + i;
  }
  state->position = diffoundry_random::kStateWords;
}

// The next `count` words of the twister.
DIFFOUNDRY_EXPORT void diffoundry_random_words(State* state, uint32_t* out, int64_t count, int32_t level) {
#ifdef DIFFOUNDRY_X86
  if (level >= 2) return diffoundry_random::avx512::words(state, out, count);
  if (level == 1) return diffoundry_random::avx2::words(state, out, count);
#endif
  (void)level;
  diffoundry_random::baseline::words(state, out, count);
}

// The next `count` normals, a multiple of 16, as torch's `normal_fill` makes them of as many words.
DIFFOUNDRY_EXPORT void diffoundry_random_normals(State* state, float* out, int64_t count, int32_t level) {
#ifdef DIFFOUNDRY_X86
  if (level >= 2) return diffoundry_random::avx512::normals(state, out, count);
  if (level == 1) return diffoundry_random::avx2::normals(state, out, count);
#endif
  (void)level;
  diffoundry_random::baseline::normals(state, out, count);
}
