// Selects the kernel for this processor: CPUID, registers saved by the operating system, Linux's permission for tiles.
#include "paths.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace diffoundry {
namespace {

constexpr uint64_t AVX_STATE = 0x6, AVX512_STATE = 0xe0, TILE_STATE = 0x60000;  // bits of XCR0

struct Registers {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned part = 0) {
    Registers r;
    __get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx);
    return r;
}

bool has(unsigned word, int bit) { return (word >> bit) & 1; }

uint64_t saved_state() {
    if (!has(cpuid(1).ecx, 27)) return 0;  // OSXSAVE: without it XGETBV does not exist
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

bool find_avx2() {
    const unsigned base = cpuid(1).ecx;
    const bool fma = has(base, 12), f16c = has(base, 29), avx = has(base, 28);
    return avx && fma && f16c && has(cpuid(7).ebx, 5) && (saved_state() & AVX_STATE) == AVX_STATE;
}

bool find_avx512() {
    const unsigned extended = cpuid(7).ebx;
    const bool f = has(extended, 16), dq = has(extended, 17), bw = has(extended, 30), vl = has(extended, 31);
    return find_avx2() && f && dq && bw && vl && (saved_state() & AVX512_STATE) == AVX512_STATE;
}

bool find_avx512bf16() { return find_avx512() && has(cpuid(7, 1).eax, 5); }

bool find_amx() {
    const unsigned extended = cpuid(7).edx;
    const bool bf16 = has(extended, 22), tile = has(extended, 24);
    if (!find_avx512() || !bf16 || !tile || (saved_state() & TILE_STATE) != TILE_STATE) return false;
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

}  // namespace

const char* name_of(Path path) {
    switch (path) {
        case Path::avx2: return "avx2";
        case Path::avx512: return "avx512";
        case Path::amx: return "amx";
        case Path::avx512bf16: return "avx512bf16";
        default: return "none";
    }
}

bool available(Path path) {
    static const bool avx2 = find_avx2(), avx512 = find_avx512(), amx = find_amx();
    static const bool avx512bf16 = find_avx512bf16();
    switch (path) {
        case Path::avx2: return avx2;
        case Path::avx512: return avx512;
        case Path::amx: return amx;
        case Path::avx512bf16: return avx512bf16;
        default: return false;
    }
}

Path best_path(Type type) {
    static const char* asked = std::getenv("DIFFOUNDRY_NATIVE_PATH");
    if (type == Type::bf16 && asked && !std::strcmp(asked, "avx512bf16") && available(Path::avx512bf16))
        return Path::avx512bf16;
    if (type == Type::bf16 && available(Path::amx)) return Path::amx;
    if (available(Path::avx512)) return Path::avx512;
    return available(Path::avx2) ? Path::avx2 : Path::none;
}

const Kernel& kernel_of(Path path) {
    switch (path) {
        case Path::avx2: return avx2_kernel;
        case Path::avx512: return avx512_kernel;
        case Path::amx: return amx_kernel;
        case Path::avx512bf16: return avx512bf16_kernel;
        default: throw std::invalid_argument("this processor has neither AVX2, AVX-512 nor AMX: no native attention");
    }
}

}  // namespace diffoundry
