// The bfloat16 kernel of AVX512-BF16 with emulated instructions, as a library for one test.
#include "avx512bf16.cpp"

#include <cstdlib>

using namespace diffoundry;

// Contiguous (batch, length, heads * width) tensors of bfloat16; as diffoundry_attention.
extern "C" void emulated_attention(const void* q, const void* k, const void* v, void* out, size_t batch, size_t heads,
                                   size_t queries, size_t keys, size_t width, size_t value_width, float scale) {
    const auto tensor = [&](const void* data, size_t length, size_t one) {
        const ptrdiff_t row = heads * one;
        return Tensor{const_cast<void*>(data), Type::bf16, ptrdiff_t(length) * row, ptrdiff_t(one), row};
    };
    const Problem p{batch, heads, queries, keys, width, value_width, scale, tensor(q, queries, width),
                    tensor(k, keys, width), tensor(v, keys, value_width), tensor(out, queries, value_width)};
    void* packed = std::aligned_alloc(64, round_up(avx512bf16_kernel.packed_bytes(p), 64));
    void* scratch = std::aligned_alloc(64, round_up(avx512bf16_kernel.scratch_bytes(p), 64));
    for (size_t b = 0; b < batch; b++)
        for (size_t h = 0; h < heads; h++) {
            avx512bf16_kernel.pack(p, b, h, 0, keys, packed);
            avx512bf16_kernel.run(p, b, h, 0, queries, packed, scratch);
        }
    std::free(packed);
    std::free(scratch);
}
