// Input of an attention kernel: four strided tensors and the sizes of one softmax(scale * Q K^T) V.
#pragma once

#include <cstddef>
#include <cstdint>

namespace diffoundry {

enum class Type : int { f32 = 0, f16 = 1, bf16 = 2 };

inline size_t bytes_of(Type type) { return type == Type::f32 ? 4 : 2; }

// Element (b, h, s, d) is at data + (b * batch + h * head + s * row + d) * bytes_of(type): strides count elements, and the
// innermost axis is contiguous. (B, S, H * D) and (B, H, S, D) tensors both fit.
struct Tensor {
    void* data;
    Type type;
    ptrdiff_t batch;
    ptrdiff_t head;
    ptrdiff_t row;

    char* at(size_t b, size_t h, size_t s) const {
        const ptrdiff_t element = ptrdiff_t(b) * batch + ptrdiff_t(h) * head + ptrdiff_t(s) * row;
        return static_cast<char*>(data) + element * ptrdiff_t(bytes_of(type));
    }
};

struct Problem {
    size_t batch;
    size_t heads;
    size_t queries;
    size_t keys;   // at least 1
    size_t width;        // of one head of Q and K: a multiple of 8, at most MAX_WIDTH
    size_t value_width;  // of one head of V and of the output: the same limits
    float scale;         // of the scores, usually 1 / sqrt(width)
    Tensor q, k, v, out;
};

constexpr size_t MAX_WIDTH = 256;

inline size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }

}  // namespace diffoundry
