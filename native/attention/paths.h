// Selects the kernel for this processor.
#pragma once

#include "kernel.h"

namespace diffoundry {

enum class Path : int { none = 0, avx2 = 1, avx512 = 2, amx = 3, avx512bf16 = 4 };

const char* name_of(Path path);

// True when processor and operating system support the path. Asks Linux for the tile registers.
bool available(Path path);

// The fastest available path for tensors of this type. AMX multiplies bfloat16, so only bfloat16 tensors go there;
// all others are computed in float32. AVX512-BF16 has not run on a processor yet: bfloat16 tensors go there only where the
// environment variable DIFFOUNDRY_NATIVE_PATH is avx512bf16.
Path best_path(Type type);

const Kernel& kernel_of(Path path);

}  // namespace diffoundry
