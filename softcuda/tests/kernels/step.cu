// What the kernels of an inference engine are made of: weights that stream past the first cache
// into tensor cores, sums that the last block finishes, waits for a predecessor, barriers of the
// grid.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <stdint.h>

__device__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// out[8][16 tiles] = x[8][k] w^T, w in tiles of 16 rows and 16 columns as the A operand of
// mma.m16n8k16, 16 bytes a lane, tile after tile along k. One block of 4 warps for a row of tiles
// and a quarter of k each; the last block of a row adds up in order. partial: tiles x splits x 128
// floats, counters: one for each row of tiles, zero before and after. Reads 512 bytes for a tile.
extern "C" __global__ void stream(float* out, float* partial, unsigned* counters, const uint4* w, const uint32_t* x,
                                  int tiles_k) {
    __shared__ float sums[4][128];
    __shared__ unsigned last;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x, split = blockIdx.y;
    int each = tiles_k / (4 * gridDim.y), first = (split * 4 + warp) * each;
    const uint4* from = w + ((size_t)row * tiles_k + first) * 32 + lane;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from + 32));
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    uint4 next;
    // asked for before the predecessor is waited for: nobody writes weights
    asm volatile("ld.global.L1::no_allocate.L2::256B.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(next.x), "=r"(next.y), "=r"(next.z), "=r"(next.w)
                 : "l"(from));
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
#endif
    float c[4] = {};
    for (int i = 0; i < each; i++) {
        uint4 a = next;
        if (i + 1 < each)
            asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
                         : "=r"(next.x), "=r"(next.y), "=r"(next.z), "=r"(next.w)
                         : "l"(from + (i + 1) * 32), "l"(policy));
        // B: row of x is lane / 4, its pairs of columns lane % 4
        const uint32_t* b = x + (size_t)(lane / 4) * tiles_k * 8 + (first + i) * 8 + lane % 4;
        uint32_t b0, b1;
        asm volatile("ld.global.cg.b32 %0, [%1];" : "=r"(b0) : "l"(b));
        asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(b1) : "l"(b + 4));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                     "{%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
    }
    for (int i = 0; i < 4; i++) sums[warp][i * 32 + lane] = c[i];
    __syncthreads();
    float* own = partial + ((size_t)row * gridDim.y + split) * 128;
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += sums[i][threadIdx.x];
    own[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned before;
        asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(before) : "l"(counters + row) : "memory");
        last = before + 1 == gridDim.y;
    }
    __syncthreads();
    if (!last) return;
    sum = 0;
    for (int s = 0; s < gridDim.y; s++) {
        float part;
        asm volatile("ld.global.cg.f32 %0, [%1];"
                     : "=f"(part)
                     : "l"(partial + ((size_t)row * gridDim.y + s) * 128 + threadIdx.x)
                     : "memory");
        sum += part;
    }
    // element i of a lane: row lane / 4 (+ 8), column 2 (lane % 4) (+ 1)
    int i = threadIdx.x / 32, m = lane / 4 + i / 2 * 8, n = lane % 4 * 2 + i % 2;
    out[(size_t)n * gridDim.x * 16 + row * 16 + m] = sum;
    if (threadIdx.x == 0) counters[row] = 0;
}

// out = softmax(in) and the norm of in: exponentials and roots of the special units, sums and
// maxima by shuffles, in one block.
extern "C" __global__ void row(float* out, float* norm, const float* in, int n) {
    __shared__ float parts[2][32];
    __shared__ unsigned most[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    float v = in[threadIdx.x], square = v * v;
    // floats in the order of unsigned integers
    unsigned key = __float_as_uint(v);
    key = key & 0x80000000u ? ~key : key | 0x80000000u;
    unsigned best;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(best) : "r"(key));
    if (lane == 0) most[warp] = best;
    __syncthreads();
    for (int i = 0; i < warps; i++) best = max(best, most[i]);
    best = best & 0x80000000u ? best & 0x7fffffffu : ~best;
    float e, root;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"((v - __uint_as_float(best)) * 1.44269504f));
    float sum = e;
    for (int offset = 16; offset > 0; offset /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        square += __shfl_xor_sync(0xffffffffu, square, offset);
    }
    if (lane == 0) parts[0][warp] = sum, parts[1][warp] = square;
    __syncthreads();
    sum = square = 0;
    for (int i = 0; i < warps; i++) sum += parts[0][i], square += parts[1][i];
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(square / n + 1e-5f));
    out[threadIdx.x] = e / sum;
    if (threadIdx.x == 0) norm[0] = root;
}

// Every block adds its number to a sum that all read behind the barrier: with cooperative groups,
// and with a counter whose waiters acquire what its writers release.
extern "C" __global__ void meet(unsigned* out, unsigned* sums, unsigned* counter, int rounds) {
    auto grid = cooperative_groups::this_grid();
    for (int i = 0; i < rounds; i++) {
        if (threadIdx.x == 0)
            asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(sums + 2 * i), "r"(blockIdx.x + 1) : "memory");
        grid.sync();
        unsigned seen = sums[2 * i];
        if (threadIdx.x == 0) {
            sums[2 * rounds + blockIdx.x] = seen;
            asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
            unsigned now;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
            } while (now < (i + 1) * gridDim.x);
        }
        __syncthreads();
        unsigned other = sums[2 * rounds + (blockIdx.x + 1) % gridDim.x];
        if (threadIdx.x == 0) out[blockIdx.x] = seen * 1000 + other;
        grid.sync();
    }
}

// A tile through shared memory with groups of copies, transposed between lanes on its way.
extern "C" __global__ void turn(uint32_t* out, const uint4* in) {
    __shared__ __align__(16) uint4 tile[2][8];
    int lane = threadIdx.x;
    if (lane < 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&tile[lane / 8][lane % 8])),
                     "l"(in + lane));
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory");
    __syncwarp();
    uint32_t a, b;
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(a), "=r"(b)
                 : "r"(shared_address(&tile[lane / 8 % 2][lane % 8])));
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(a));
    out[lane] = a;
    out[32 + lane] = b;
    __threadfence();
    asm volatile("membar.gl;\nfence.acq_rel.gpu;\nfence.sc.gpu;\nmembar.cta;" ::: "memory");
}
