// Single instructions of the PTX ISA, and nothing else. Baseline: sm_80.
#pragma once
#include <cstdint>

// d += a b: a is 16x16 (row), b 16x8 (col), d 16x8; f16 in, f32 sums.
// Lane l = 4 g + t holds
//   a: {(g, 2t..2t+1), (g+8, 2t..), (g, 2t+8..), (g+8, 2t+8..)}, two elements a register
//   b: {(2t..2t+1, g), (2t+8.., g)}
//   d: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1)
__device__ __forceinline__ void mma(float (&d)[4], const uint4& a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

// The transpose of an 8x8 matrix of 16-bit elements: lane 4 g + t gives (g, 2t..2t+1) and gets
// (2t..2t+1, g).
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

// The largest f16 that is finite.
constexpr float MOST_F16 = 65504.0f;

// Two floats as f16, the first in the lower half, rounded to nearest even; what is beyond MOST_F16
// becomes infinite.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// The floats that two f16 are, the lower half first.
__device__ __forceinline__ float2 unpack_f16(uint32_t x) {
    float2 y;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(y.x), "=f"(y.y)
        : "r"(x));
    return y;
}

// 16 bytes that are read once, BYTES behind p: not kept in L1.
template <int BYTES = 0>
__device__ __forceinline__ uint4 load_streaming(const uint4* p) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p), "n"(BYTES));
    return v;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

template <int BYTES = 0>
__device__ __forceinline__ uint4 load_shared(uint32_t address) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address), "n"(BYTES));
    return v;
}

// 16 bytes from global to shared memory, past L1.
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

// The same, 16 AT bytes behind both, where count > AT: a predicate and no branch, lest the compiler make
// the addresses anew for each.
template <int AT>
__device__ __forceinline__ void copy_async_of(int count, uint32_t to, const void* from) {
    asm volatile("{ .reg .pred p; setp.gt.s32 p, %2, %3; @p cp.async.cg.shared.global [%0+%4], [%1+%4], 16; }" ::"r"(to),
                 "l"(from), "r"(count), "n"(AT), "n"(AT * 16)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's groups are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// The A operand of mma from rows in shared memory: lane l gives the address of the 16 bytes that
// start at (l % 16, l / 16 * 8) of a 16x16 tile of 16-bit elements.
__device__ __forceinline__ uint4 load_matrix(uint32_t address) {
    uint4 v;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address));
    return v;
}

// Where a launch may begin before the one ahead of it is over (sm_90+): waits until all launches ahead
// are complete and what they wrote is visible, and from then on lets the one behind begin, so that never
// more than two are under way. Every block of a kernel of the pass calls it, before it touches memory
// that another launch writes or reads what it writes, and before it ends: who waits for a launch has then
// waited for all before it. Older devices start launches one after another.
__device__ __forceinline__ void after_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Zero, as no compiler knows: what is indexed with it is not loaded before it is made.
__device__ __forceinline__ int zero_from_here() {
    int zero;
    asm volatile("mov.b32 %0, 0;" : "=r"(zero));
    return zero;
}

// threadIdx.x, asked for here: what is made of it is not kept in registers from one use to the next.
__device__ __forceinline__ int thread_from_here() {
    int thread;
    asm volatile("mov.u32 %0, %tid.x;" : "=r"(thread));
    return thread;
}

// Nanoseconds of a clock that all multiprocessors share; how finely it ticks is the device's.
__device__ __forceinline__ unsigned long long clock_ns() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
    return now;
}

// A barrier among `threads` threads of the block, whole warps; 0 is that of __syncthreads.
__device__ __forceinline__ void barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// 1 / x to the last bit or so.
__device__ __forceinline__ float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 2^x, and 1 / sqrt(x), to the last few bits.
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A load that sees whatever was written before the value that it finds was released.
__device__ __forceinline__ unsigned load_acquire(const unsigned* p) {
    unsigned v;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}
