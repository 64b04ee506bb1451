// The bfloat16 kernel with the products of AVX512-BF16.
#include "vector_tiles.h"

#include "bf16_kernel.h"

namespace diffoundry {

const Kernel avx512bf16_kernel = {QUERIES_PER_TASK, packed_bytes, scratch_bytes, pack, run};

}  // namespace diffoundry
