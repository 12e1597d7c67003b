// Vectors of N floats, by the compilers' vector extensions: one source for SSE, AVX2, AVX512 and NEON.
//
// Everything here has internal linkage: each instruction set's file has its own copy.
#pragma once

#include <stdint.h>

namespace paddle_glm {
namespace {

template <int N>
struct Simd {
    static constexpr int kLanes = N;
    typedef float Float __attribute__((vector_size(4 * N)));
    typedef int32_t Int __attribute__((vector_size(4 * N)));

    static Float load(const float* from) {
        Float v;
        __builtin_memcpy(&v, from, sizeof(v));
        return v;
    }
    static void store(float* to, Float v) { __builtin_memcpy(to, &v, sizeof(v)); }

    // The larger; the second if either is NaN.
    static Float larger(Float a, Float b) { return a > b ? a : b; }

    // e^x to 1e-7 of its value; 0 below the smallest normal number, infinity above the largest, NaN for NaN.
    // Polynomial of Cephes' expf.
    static Float exp(Float x) {
        const Float lowest = Float{} - 87.3f, highest = Float{} + 88.9f;
        const Float bounded = larger(lowest, highest < x ? highest : x);
        // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
        const Float shifted = bounded * 1.44269504f + 12582912.0f;
        const Float n = shifted - 12582912.0f;
        const Float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
        Float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        p = p * (r * r) + r + 1.0f;
        const Float power = reinterpret_cast<Float>((reinterpret_cast<Int>(shifted) << 23) + 0x3f800000);
        return x < lowest ? Float{} : p * power;
    }
};

// The sum and the largest of all lanes, by halves.
template <int N>
float sum(typename Simd<N>::Float v) {
    typename Simd<N / 2>::Float low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return sum<N / 2>(low + high);
}
template <>
inline float sum<4>(Simd<4>::Float v) {
    return (v[0] + v[1]) + (v[2] + v[3]);
}

template <int N>
float largest(typename Simd<N>::Float v) {
    typename Simd<N / 2>::Float low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return largest<N / 2>(Simd<N / 2>::larger(low, high));
}
template <>
inline float largest<4>(Simd<4>::Float v) {
    const float one = v[0] > v[1] ? v[0] : v[1], other = v[2] > v[3] ? v[2] : v[3];
    return one > other ? one : other;
}

#if defined(__clang__) || __GNUC__ >= 12
#define PADDLE_GLM_SHUFFLE(N, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PADDLE_GLM_SHUFFLE(N, a, b, ...) __builtin_shuffle(a, b, Simd<N>::Int{__VA_ARGS__})
#endif

// Lanes of a and b in turn: of their lower, and of their upper halves.
inline Simd<4>::Float zip_low(Simd<4>::Float a, Simd<4>::Float b) {
    return PADDLE_GLM_SHUFFLE(4, a, b, 0, 4, 1, 5);
}
inline Simd<4>::Float zip_high(Simd<4>::Float a, Simd<4>::Float b) {
    return PADDLE_GLM_SHUFFLE(4, a, b, 2, 6, 3, 7);
}
#ifdef __AVX2__
inline Simd<8>::Float zip_low(Simd<8>::Float a, Simd<8>::Float b) {
    return PADDLE_GLM_SHUFFLE(8, a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
inline Simd<8>::Float zip_high(Simd<8>::Float a, Simd<8>::Float b) {
    return PADDLE_GLM_SHUFFLE(8, a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#endif
#ifdef __AVX512F__
inline Simd<16>::Float zip_low(Simd<16>::Float a, Simd<16>::Float b) {
    return PADDLE_GLM_SHUFFLE(16, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Simd<16>::Float zip_high(Simd<16>::Float a, Simd<16>::Float b) {
    return PADDLE_GLM_SHUFFLE(16, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#endif

// out[j * out_stride + i] = in[i * in_stride + j], i, j < N.
template <int N>
void transpose(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
    using V = Simd<N>;
    typename V::Float a[N], b[N];
    for (int i = 0; i < N; i++) a[i] = V::load(in + i * in_stride);
    for (int stage = 1; stage < N; stage *= 2) {
        for (int i = 0; i < N / 2; i++) {
            b[2 * i] = zip_low(a[i], a[i + N / 2]);
            b[2 * i + 1] = zip_high(a[i], a[i + N / 2]);
        }
        for (int i = 0; i < N; i++) a[i] = b[i];
    }
    for (int i = 0; i < N; i++) V::store(out + i * out_stride, a[i]);
}

}  // namespace
}  // namespace paddle_glm
