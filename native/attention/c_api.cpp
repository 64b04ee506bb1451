// C interface of the kernel, for Python: tests, benchmarks, and queries for this processor's path.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "attention.h"

using namespace diffoundry;

namespace {

// More than any processor that runs this has.
constexpr int MAX_THREADS = 1024;

// Elements of a tensor: far above any memory, and small enough that no size in bytes overflows.
constexpr size_t MAX_ELEMENTS = size_t(1) << 44;

// Tasks in order of their number, each to the next free thread. Where the system starts no more threads, those that it
// started do the work. The first exception of a task is thrown after every thread has ended.
Parallel threads(size_t count) {
    return [count](size_t n, const std::function<void(size_t)>& body) {
        std::atomic<size_t> next{0};
        std::mutex mutex;
        std::exception_ptr failure;
        auto work = [&] {
            try {
                for (size_t i = next++; i < n; i = next++) body(i);
            } catch (...) {
                next = n;  // the others stop after their task
                std::lock_guard<std::mutex> lock(mutex);
                if (!failure) failure = std::current_exception();
            }
        };
        std::vector<std::thread> others;
        others.reserve(std::min(count, n));
        for (size_t i = 1; i < std::min(count, n); i++) {
            try {
                others.emplace_back(work);
            } catch (const std::system_error&) {
                break;
            }
        }
        work();
        for (auto& thread : others) thread.join();
        if (failure) std::rethrow_exception(failure);
    };
}

bool known(int type) { return type >= int(Type::f32) && type <= int(Type::bf16); }

// Throws std::invalid_argument unless a tensor of these sizes exists and its bytes can be counted.
void check_tensor(const char* name, const void* data, size_t batch, size_t length, size_t heads, size_t width) {
    size_t elements = 1;
    for (const size_t size : {batch, length, heads, width})
        if (__builtin_mul_overflow(elements, size, &elements) || elements > MAX_ELEMENTS)
            throw std::invalid_argument(std::string("native attention: the sizes of ") + name + " are too large");
    if (!data && elements)
        throw std::invalid_argument(std::string("native attention: got no data of ") + name + ", expected its address");
}

void say(char* message, size_t bytes, const char* text) {
    if (message && bytes) std::snprintf(message, bytes, "%s", text);
}

}  // namespace

#define DIFFOUNDRY_API extern "C" __attribute__((visibility("default")))

// Version of these functions; runtime/native/kernel.py checks it before any call.
DIFFOUNDRY_API int diffoundry_attention_interface() { return 1; }

// The release of OpenVINO that the extension was built against; empty when there is none.
DIFFOUNDRY_API const char* diffoundry_attention_openvino() { return OPENVINO_VERSION; }

// 1 avx2, 2 avx512, 3 amx, 4 avx512bf16: 1 when this machine can run it, else 0.
DIFFOUNDRY_API int diffoundry_attention_available(int path) { return available(Path(path)); }

// The path that tensors of this type (0 float32, 1 float16, 2 bfloat16) get here; 0 for none.
DIFFOUNDRY_API int diffoundry_attention_best_path(int type) {
    return known(type) ? int(best_path(Type(type))) : 0;
}

// Contiguous (batch, length, heads * width) tensors of one type; value_width for v and out. Every argument is checked.
// Returns 0, or 1 with an error in `message`.
DIFFOUNDRY_API int diffoundry_attention(int path, int thread_count, int type, const void* q, const void* k, const void* v,
                                        void* out, size_t batch, size_t heads, size_t queries, size_t keys,
                                        size_t width, size_t value_width, float scale, char* message,
                                        size_t message_bytes) try {
    if (thread_count < 1 || thread_count > MAX_THREADS)
        throw std::invalid_argument("native attention: got " + std::to_string(thread_count) +
                                    " threads, expected 1 to " + std::to_string(MAX_THREADS));
    if (!known(type))
        throw std::invalid_argument("native attention: got the type " + std::to_string(type) + ", expected 0 to 2");
    check_tensor("q", q, batch, queries, heads, width);
    check_tensor("k", k, batch, keys, heads, width);
    check_tensor("v", v, batch, keys, heads, value_width);
    check_tensor("the output", out, batch, queries, heads, value_width);
    const auto tensor = [&](const void* data, size_t length, size_t one) {
        const ptrdiff_t row = heads * one;
        return Tensor{const_cast<void*>(data), Type(type), ptrdiff_t(length) * row, ptrdiff_t(one), row};
    };
    attention({batch, heads, queries, keys, width, value_width, scale, tensor(q, queries, width), tensor(k, keys, width),
               tensor(v, keys, value_width), tensor(out, queries, value_width)},
              Path(path), threads(thread_count));
    return 0;
} catch (const std::exception& error) {
    say(message, message_bytes, error.what());
    return 1;
} catch (...) {
    say(message, message_bytes, "native attention: failed for an unknown reason");
    return 1;
}
