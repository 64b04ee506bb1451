// The functions that kernels.cpp compiles once for each instruction set.

#pragma once

#include <stdint.h>

namespace diffoundry_random {

constexpr int kStateWords = 624;

// The twister's words and how many of them are used up: 625 uint32 in a row for callers from C.
struct State {
  uint32_t words[kStateWords];
  uint32_t position;
};

#define DIFFOUNDRY_KERNELS(level)                            \
  namespace level {                                          \
  void words(State* state, uint32_t* out, int64_t count);    \
  void normals(State* state, float* out, int64_t count);     \
  }

DIFFOUNDRY_KERNELS(baseline)
#ifdef DIFFOUNDRY_X86
DIFFOUNDRY_KERNELS(avx2)
DIFFOUNDRY_KERNELS(avx512)
#endif

#undef DIFFOUNDRY_KERNELS

}  // namespace diffoundry_random
