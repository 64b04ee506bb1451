// The bfloat16 kernel with the tile registers of AMX.
#include "tiles.h"

#include "bf16_kernel.h"

namespace diffoundry {

const Kernel amx_kernel = {QUERIES_PER_TASK, packed_bytes, scratch_bytes, pack, run};

}  // namespace diffoundry
