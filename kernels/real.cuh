// Arithmetic that the CPU carries out alike, operation by operation (src/verify/math.rs): exp and ln
// from IEEE operations alone, integer weights, random words. Compiled with -fmad=false.
#pragma once
#include "step.cuh"
#include <climits>

// 2^n for n of normal numbers.
__device__ __forceinline__ float power_of_two(int n) { return __int_as_float((n + 127) << 23); }

// e^x; math.rs says how.
__device__ __forceinline__ float exp_exact(float x) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23
    x = fminf(fmaxf(x, -104.0f), 89.0f);
    const float shifted = x * 1.44269504088896340736f + ROUND;
    float n = shifted - ROUND;
    const float r = (x - n * 0.6933594f) - n * -2.1219444e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666666e-1f;
    p = p * r + 5e-1f;
    const float y = (p * (r * r) + r) + 1.0f;
    const int whole = __float_as_int(shifted) - __float_as_int(ROUND), half = whole >> 1;
    return y * power_of_two(half) * power_of_two(whole - half);
}

// ln x; math.rs says how.
__device__ __forceinline__ float ln_exact(float x) {
    if (!(x > 0.0f && x < INFINITY)) return x == 0.0f ? -INFINITY : x == INFINITY ? INFINITY : NAN;
    int lift = 0;
    if (x < 1.17549435e-38f) x *= 8388608.0f, lift = -23;
    const uint32_t bits = __float_as_uint(x);
    int exponent = static_cast<int>(bits >> 23) - 126 + lift;
    float m = __uint_as_float((bits & 0x007fffff) | 0x3f000000);
    if (m < 0.70710678118654752440f) {
        exponent -= 1;
        m = (m + m) - 1.0f;
    } else {
        m -= 1.0f;
    }
    const float e = static_cast<float>(exponent), square = m * m;
    float p = 7.0376836e-2f;
    p = p * m - 1.151461e-1f;
    p = p * m + 1.16769984e-1f;
    p = p * m - 1.2420141e-1f;
    p = p * m + 1.4249323e-1f;
    p = p * m - 1.6668057e-1f;
    p = p * m + 2.0000714e-1f;
    p = p * m - 2.4999994e-1f;
    p = p * m + 3.333333e-1f;
    float y = p * m * square;
    y += e * -2.1219444e-4f;
    y -= 0.5f * square;
    return (m + y) + e * 0.6933594f;
}

// The integer weight of a logit (z - max) / temperature below the best, as a float, which holds it
// exactly.
__device__ __forceinline__ float weight_of(float distance) {
    constexpr float ONE = 1099511627776.0f, INTEGERS = 8388608.0f;
    const float scaled = exp_exact(distance) * ONE;
    const float rounded = (scaled + INTEGERS) - INTEGERS;
    return scaled < INTEGERS ? rounded : scaled;
}

// Keys order as logits do; both zeros have one.
__device__ __forceinline__ uint32_t order_key(float z) {
    const uint32_t bits = __float_as_uint(z + 0.0f);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

// A token's weight under a law.
__device__ __forceinline__ float weight(const Law& law, int token, float z) {
    if (law.only >= 0) return token == law.only ? 1099511627776.0f : 0.0f;
    const uint32_t key = order_key(z);
    const bool kept = key > law.key || (key == law.key && token <= law.id);
    return kept ? weight_of((z - law.max) / law.temperature) : 0.0f;
}

__device__ __forceinline__ u64 integer(float weight) { return static_cast<u64>(weight); }

__device__ __forceinline__ Law one_hot(int token) { return {1ull << 40, 0.0f, 1.0f, UINT_MAX, -1, token, 0}; }

// weight / total
__device__ __forceinline__ float ratio(u64 weight, u64 total) {
    return weight == 0 ? 0.0f : __ull2float_rn(weight) / __ull2float_rn(total);
}

// Philox4x32-10 with counter (sequence, step, row, use and place): the first two words.
__device__ __forceinline__ u64 random_word(const Stream& s, int row, Use use, int place = 0) {
    uint32_t c[4] = {s.sequence, s.step, static_cast<uint32_t>(row), use | static_cast<uint32_t>(place) << 8};
    uint32_t key[2] = {s.seed[0], s.seed[1]};
#pragma unroll
    for (int round = 0; round < 10; round++) {
        if (round > 0) key[0] += 0x9e3779b9, key[1] += 0xbb67ae85;
        const u64 a = static_cast<u64>(c[0]) * 0xd2511f53, b = static_cast<u64>(c[2]) * 0xcd9e8d57;
        const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(b),
                                  static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(a)};
#pragma unroll
        for (int i = 0; i < 4; i++) c[i] = next[i];
    }
    return static_cast<u64>(c[1]) << 32 | c[0];
}

// Whether 64 random bits, read as a binary fraction, are below p; NaN admits none.
__device__ __forceinline__ bool admits(float p, u64 word) {
    if (p >= 1.0f) return true;
    return p > 0.0f && word < static_cast<u64>(p * 18446744073709551616.0f);
}

// 64 random bits as a value in [0, 1).
__device__ __forceinline__ float uniform(u64 word) {
    return static_cast<float>(static_cast<uint32_t>(word >> 40)) * (1.0f / 16777216.0f);
}

// The least weight that top-p must keep of `total`: top_p * total, rounded up. 0 < top_p < 1.
__device__ __forceinline__ u64 least_weight(float top_p, u64 total) {
    const uint32_t bits = __float_as_uint(top_p), exponent = max(bits >> 23, 1u);
    const u64 mantissa = bits >> 23 == 0 ? bits : (bits & 0x007fffff) | 0x00800000;
    const uint32_t shift = 150 - exponent;  // at least 24
    const u64 low = mantissa * total, high = __umul64hi(mantissa, total);
    u64 need, rest;
    if (shift < 64) {
        need = low >> shift | high << (64 - shift);
        rest = low & ((1ull << shift) - 1);
    } else if (shift < 128) {
        need = high >> (shift - 64);
        rest = low | (high & ((1ull << (shift - 64)) - 1));
    } else {
        need = 0, rest = 1;
    }
    need += rest != 0;
    return min(max(need, 1ull), total);
}
