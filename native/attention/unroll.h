// Loops whose counter is a constant in every round.
#pragma once

#include <utility>

#define ALWAYS_INLINE __attribute__((always_inline))

namespace diffoundry {
namespace {

template <int I> using constant = std::integral_constant<int, I>;

template <class F, int... I> inline ALWAYS_INLINE void unroll(std::integer_sequence<int, I...>, F& f) {
    (f(constant<I>()), ...);
}

// f(constant<0>()) ... f(constant<N - 1>()).
template <int N, class F> inline ALWAYS_INLINE void unroll(F&& f) { unroll(std::make_integer_sequence<int, N>(), f); }

}  // namespace
}  // namespace diffoundry
