// The float32 kernel with 8 lanes.
#include <cstddef>

#include "simd256.h"

#include "fp32_kernel.h"

namespace diffoundry {

const Kernel avx2_kernel = {4 * QUERIES, packed_bytes, scratch_bytes, pack, run};

}  // namespace diffoundry
