// Attention without a score matrix in memory: softmax(scale * Q K^T) V, head by head, block by block.
#pragma once

#include <functional>

#include "paths.h"

namespace diffoundry {

// Calls body(0) ... body(n - 1), on whatever threads the caller has.
using Parallel = std::function<void(size_t n, const std::function<void(size_t)>& body)>;

// FlashAttention (Dao et al. 2022, arXiv 2205.14135) for the narrow heads of diffusion models.
// The output may not overlap the inputs. Throws std::invalid_argument when the problem's sizes or the path do not fit.
void attention(const Problem& problem, Path path, const Parallel& parallel);

}  // namespace diffoundry
