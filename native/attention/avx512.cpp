// The float32 kernel with 16 lanes.
#include <cstddef>

#include "simd512.h"

#include "fp32_kernel.h"

namespace diffoundry {

const Kernel avx512_kernel = {2 * QUERIES, packed_bytes, scratch_bytes, pack, run};

}  // namespace diffoundry
