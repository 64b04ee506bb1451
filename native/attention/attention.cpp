// Cuts a problem into tasks: first every head's keys and values are packed, then blocks of queries run.
#include "attention.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace diffoundry {
namespace {

constexpr size_t HUGE_PAGE = size_t(2) << 20;

struct Free {
    void operator()(void* p) const { std::free(p); }
};

class Buffer {
public:
    // At least this many bytes, aligned to 64, content undefined.
    void* get(size_t bytes) {
        if (bytes > size_) {
            const size_t alignment = bytes < HUGE_PAGE ? 64 : HUGE_PAGE, size = round_up(bytes, alignment);
            data_.reset(std::aligned_alloc(alignment, size));
            if (!data_) throw std::bad_alloc();
            // Optional: every query reads all keys, and small pages would add many page table reads.
            if (alignment == HUGE_PAGE) madvise(data_.get(), size, MADV_HUGEPAGE);
            size_ = size;
        }
        return data_.get();
    }

private:
    std::unique_ptr<void, Free> data_;
    size_t size_ = 0;
};

// Fresh pages cost more than packing into them, so buffers are kept: one for each call that runs at the same time.
class BufferPool {
public:
    Buffer take() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (buffers_.empty()) return Buffer();
        Buffer last = std::move(buffers_.back());
        buffers_.pop_back();
        return last;
    }

    void give_back(Buffer buffer) {
        std::lock_guard<std::mutex> lock(mutex_);
        buffers_.push_back(std::move(buffer));
    }

private:
    std::mutex mutex_;
    std::vector<Buffer> buffers_;
};

BufferPool& pool() {
    static BufferPool instance;
    return instance;
}

void check(const Problem& p, Path path) {
    for (const size_t width : {p.width, p.value_width})
        if (width % 8 || width == 0 || width > MAX_WIDTH)
            throw std::invalid_argument("native attention: got heads of width " + std::to_string(width) +
                                        ", expected a multiple of 8 from 8 to " + std::to_string(MAX_WIDTH));
    if (p.keys == 0) throw std::invalid_argument("native attention: got no keys, expected at least one");
    if (!available(path))
        throw std::invalid_argument(std::string("native attention: this processor lacks the path ") + name_of(path));
    const bool halves = p.q.type == Type::bf16 && p.k.type == Type::bf16 && p.v.type == Type::bf16;
    if ((path == Path::amx || path == Path::avx512bf16) && !halves)
        throw std::invalid_argument(std::string("native attention: the path ") + name_of(path) +
                                    " takes bfloat16 queries, keys and values");
}

}  // namespace

void attention(const Problem& p, Path path, const Parallel& parallel) {
    check(p, path);
    const Kernel& kernel = kernel_of(path);
    const size_t heads = p.batch * p.heads, stride = kernel.packed_bytes(p), scratch = kernel.scratch_bytes(p);
    const size_t blocks = (p.queries + kernel.queries_per_task - 1) / kernel.queries_per_task;
    const size_t parts = (p.keys + KEYS_PER_TASK - 1) / KEYS_PER_TASK;

    Buffer buffer = pool().take();
    char* packed = static_cast<char*>(buffer.get(heads * stride));
    parallel(p.batch * parts, [&](size_t task) {
        const size_t b = task / parts, first = task % parts * KEYS_PER_TASK;
        const size_t last = std::min(first + KEYS_PER_TASK, p.keys);
        for (size_t h = 0; h < p.heads; h++) kernel.pack(p, b, h, first, last, packed + (b * p.heads + h) * stride);
    });
    parallel(heads * blocks, [&](size_t task) {
        thread_local Buffer mine;
        const size_t i = task / blocks, first = task % blocks * kernel.queries_per_task;
        const size_t last = std::min(first + kernel.queries_per_task, p.queries);
        kernel.run(p, i / p.heads, i % p.heads, first, last, packed + i * stride, mine.get(scratch));
    });
    pool().give_back(std::move(buffer));
}

}  // namespace diffoundry
