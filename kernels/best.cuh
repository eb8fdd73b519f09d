// The best two of some logits, see Best in layout.cuh.
#pragma once
#include <climits>

#include "layout.cuh"

constexpr Best NO_BEST = {-INFINITY, INT_MAX, -INFINITY, INT_MAX};

// One logit; NaN counts as infinity, which no row of logits may hold.
__device__ __forceinline__ Best single(float z, int token) { return {z == z ? z : INFINITY, token, -INFINITY, INT_MAX}; }

// The higher logit, then the lower id.
__device__ __forceinline__ bool beats(float a, int a_token, float b, int b_token) {
    return a > b || (a == b && a_token < b_token);
}

// The best two of two pairs of different tokens.
__device__ __forceinline__ Best better(const Best& a, const Best& b) {
    const bool is_a = beats(a.value, a.token, b.value, b.token);
    // the winner's second and the loser's first
    const float second = is_a ? a.second : b.second, other = is_a ? b.value : a.value;
    const int second_token = is_a ? a.second_token : b.second_token, other_token = is_a ? b.token : a.token;
    const bool stays = beats(second, second_token, other, other_token);
    return {is_a ? a.value : b.value, is_a ? a.token : b.token, stays ? second : other,
            stays ? second_token : other_token};
}

// That of the lane whose number differs in the bits of `lanes`.
__device__ __forceinline__ Best from_lane(const Best& a, int lanes) {
    return {__shfl_xor_sync(~0u, a.value, lanes), __shfl_xor_sync(~0u, a.token, lanes),
            __shfl_xor_sync(~0u, a.second, lanes), __shfl_xor_sync(~0u, a.second_token, lanes)};
}

__device__ __forceinline__ Best of_bits(const float4& v) {
    return {v.x, __float_as_int(v.y), v.z, __float_as_int(v.w)};
}
