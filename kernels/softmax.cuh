// Online softmax of attention: states of mma rows, how a tile's scores enter them, and how one state is
// folded into another. All sums are intrinsics, lest instances of a template contract them differently.
#pragma once
#include "ptx.cuh"

constexpr float INFINITE = __builtin_huge_valf();

// What one warp knows of 16 mma rows, lane 4 g + t of rows g and g + 8: the largest score in units
// of log2, the sum of weights (this lane's part of it until the sub-split ends), the weighted values.
template <int N_TILES>
struct State {
    float top[2];
    float sum[2];
    float value[N_TILES][4];

    __device__ __forceinline__ void clear() {
        top[0] = top[1] = -INFINITE;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (int n = 0; n < N_TILES; n++) value[n][0] = value[n][1] = value[n][2] = value[n][3] = 0;
    }
    // the whole sums, when a sub-split is over
    __device__ __forceinline__ void end() {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(~0u, sum[h], 1));
            sum[h] = __fadd_rn(sum[h], __shfl_xor_sync(~0u, sum[h], 2));
        }
    }
};

// 2^(from - to), where from <= to: 1 where they are equal, infinities included.
__device__ __forceinline__ float decay(float from, float to) {
    float power = exp2_approx(__fsub_rn(from, to));  // apart, for a select and no branch
    return from == to ? 1.0f : power;
}

// Folds (top, sum) of one more state into those of a running one; the weights of both come back.
__device__ __forceinline__ void fold(float& top, float& sum, float2 more, float& keep, float& add) {
    float most = fmaxf(top, more.x);
    keep = decay(top, most);
    add = decay(more.x, most);
    add = more.x == -INFINITE ? 0.0f : add;
    top = most;
    sum = __fmaf_rn(sum, keep, __fmul_rn(more.y, add));
}

__device__ __forceinline__ void fold(float (&value)[4], const float (&keep)[2], float4 more, const float (&add)[2]) {
    value[0] = __fmaf_rn(value[0], keep[0], __fmul_rn(more.x, add[0]));
    value[1] = __fmaf_rn(value[1], keep[0], __fmul_rn(more.y, add[0]));
    value[2] = __fmaf_rn(value[2], keep[1], __fmul_rn(more.z, add[1]));
    value[3] = __fmaf_rn(value[3], keep[1], __fmul_rn(more.w, add[1]));
}

// Takes the scores of a tile into the state's maxima and sums, decays its values; gives the tile's
// weights as the A operand. Positions that rows do not see are masked where `masked`: `seen` has the
// last that they do, of rows g and g + 8.
template <int N_TILES, class Seen>
__device__ __forceinline__ uint4 weigh(State<N_TILES>& state, float (&score)[2][4], float scale, bool masked,
                                       int first_position, const Seen& seen) {
    if (masked) {
        const int2 last = *seen();
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int position = first_position + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
            if (position > (i % 4 < 2 ? last.x : last.y)) score[i / 4][i % 4] = -INFINITE;
        }
    }
    float shift[2], keep[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(fmaxf(score[0][2 * h], score[0][2 * h + 1]), fmaxf(score[1][2 * h], score[1][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        most = fmaxf(state.top[h], __fmul_rn(most, scale));
        keep[h] = decay(state.top[h], most);
        state.top[h] = most;
        // a row that has seen nothing yet: all its scores are -inf, and stay so
        shift[h] = most == -INFINITE ? 0.0f : -most;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        score[i / 4][i % 4] = exp2_approx(__fmaf_rn(score[i / 4][i % 4], scale, shift[i % 4 / 2]));
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = __fadd_rn(__fadd_rn(score[0][2 * h], score[0][2 * h + 1]),
                              __fadd_rn(score[1][2 * h], score[1][2 * h + 1]));
        state.sum[h] = __fmaf_rn(state.sum[h], keep[h], sum);
    }
    // most tiles move no maximum
    if (__any_sync(~0u, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < N_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) state.value[n][i] = __fmul_rn(state.value[n][i], keep[i / 2]);
    }
    return {pack_f16(score[0][0], score[0][1]), pack_f16(score[0][2], score[0][3]),
            pack_f16(score[1][0], score[1][1]), pack_f16(score[1][2], score[1][3])};
}
