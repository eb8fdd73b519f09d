// C[m][n] = sum over k of A[m][k] B[n][k] in bf16 with f32 sums: cp.async into two buffers,
// ldmatrix, mma.m16n8k16. A block of 128 threads computes 64 x 64; k is a multiple of 32.
#include <cuda_bf16.h>
#include <cstdint>

constexpr int BM = 64, BN = 64, BK = 32, PITCH = BK + 8;

__device__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
}

extern "C" __global__ void __launch_bounds__(128)
    gemm(float* c, const __nv_bfloat16* a, const __nv_bfloat16* b, int m, int n, int k) {
    __shared__ __align__(16) __nv_bfloat16 as[2][BM][PITCH];
    __shared__ __align__(16) __nv_bfloat16 bs[2][BN][PITCH];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
    float acc[8][4] = {};
    auto load = [&](int buffer, int k0) {
        for (int i = threadIdx.x; i < BM * BK / 8; i += 128) {
            int row = i / (BK / 8), column = i % (BK / 8) * 8;
            copy16(&as[buffer][row][column], &a[(size_t)(m0 + row) * k + k0 + column]);
            copy16(&bs[buffer][row][column], &b[(size_t)(n0 + row) * k + k0 + column]);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    };
    load(0, 0);
    int steps = k / BK;
    for (int step = 0; step < steps; step++) {
        int buffer = step % 2;
        if (step + 1 < steps) {
            load(1 - buffer, (step + 1) * BK);
#ifndef FAULT_NO_WAIT
            asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int kk = 0; kk < BK; kk += 16) {
            uint32_t fa[4];
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3])
                         : "r"(shared_address(&as[buffer][warp * 16 + lane % 16][kk + lane / 16 * 8])));
            for (int j = 0; j < 8; j++) {
                uint32_t fb[2];
                asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                             : "=r"(fb[0]), "=r"(fb[1])
                             : "r"(shared_address(&bs[buffer][j * 8 + lane % 8][kk + lane / 8 % 2 * 8])));
                asm volatile(
                    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                    "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                    : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])
                    : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
            }
        }
#ifndef FAULT_NO_SYNC
        __syncthreads();
#endif
    }
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 4; i++) {
            int row = m0 + warp * 16 + lane / 4 + i / 2 * 8, column = n0 + j * 8 + lane % 4 * 2 + i % 2;
            c[(size_t)row * n + column] = acc[j][i];
        }
}
