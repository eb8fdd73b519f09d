// Sums over a block in one stated order.
#pragma once

// The sum of every thread's `value`, in all threads of the first warp: lanes by a butterfly
// (16, 8, 4, 2, 1), then warps in ascending order. The block has whole warps; a block calls it once.
template <int WARPS>
__device__ __forceinline__ float block_sum(float value) {
    __shared__ float of_warp[WARPS];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffff, value, offset);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    if (threadIdx.x < 32) {
        sum = of_warp[0];
#pragma unroll
        for (int warp = 1; warp < WARPS; ++warp) sum += of_warp[warp];
    }
    return sum;
}
