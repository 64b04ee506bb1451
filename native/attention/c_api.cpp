// C interface of the kernel, for Python: tests, benchmarks, and queries for this processor's path.
#include <atomic>
#include <cstdio>
#include <exception>
#include <thread>
#include <vector>

#include "attention.h"

using namespace diffoundry;

namespace {

// Tasks in order of their number, each to the next free thread.
Parallel threads(size_t count) {
    return [count](size_t n, const std::function<void(size_t)>& body) {
        std::atomic<size_t> next{0};
        auto work = [&] {
            for (size_t i = next++; i < n; i = next++) body(i);
        };
        std::vector<std::thread> others;
        for (size_t i = 1; i < count; i++) others.emplace_back(work);
        work();
        for (auto& thread : others) thread.join();
    };
}

}  // namespace

#define DIFFOUNDRY_API extern "C" __attribute__((visibility("default")))

// Version of these functions; runtime/native/kernel.py checks it before any call.
DIFFOUNDRY_API int diffoundry_attention_interface() { return 1; }

// The release of OpenVINO that the extension was built against; empty when there is none.
DIFFOUNDRY_API const char* diffoundry_attention_openvino() { return OPENVINO_VERSION; }

// 1 avx2, 2 avx512, 3 amx: 1 when this machine can run it, else 0.
DIFFOUNDRY_API int diffoundry_attention_available(int path) { return available(Path(path)); }

// The path that tensors of this type (0 float32, 1 float16, 2 bfloat16) get here; 0 for none.
DIFFOUNDRY_API int diffoundry_attention_best_path(int type) { return int(best_path(Type(type))); }

// Contiguous (batch, length, heads * width) tensors of one type; value_width for v and out. Returns 0, or 1 with an error
// in `message`.
DIFFOUNDRY_API int diffoundry_attention(int path, int thread_count, int type, const void* q, const void* k, const void* v,
                                        void* out, size_t batch, size_t heads, size_t queries, size_t keys,
                                        size_t width, size_t value_width, float scale, char* message,
                                        size_t message_bytes) try {
    const auto tensor = [&](const void* data, size_t length, size_t one) {
        const ptrdiff_t row = heads * one;
        return Tensor{const_cast<void*>(data), Type(type), ptrdiff_t(length) * row, ptrdiff_t(one), row};
    };
    attention({batch, heads, queries, keys, width, value_width, scale, tensor(q, queries, width), tensor(k, keys, width),
               tensor(v, keys, value_width), tensor(out, queries, value_width)},
              Path(path), threads(thread_count));
    return 0;
} catch (const std::exception& error) {
    std::snprintf(message, message_bytes, "%s", error.what());
    return 1;
}
