// One of each device intrinsic of the toolkit's headers that nvcc turns into an instruction of its
// own, so that what it emits for them is known to softcuda. Nothing here is run.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_pipeline.h>
#include <cooperative_groups.h>
#include <assert.h>
#include <stdint.h>
namespace cg = cooperative_groups;

template <class T> __device__ void keep(void* out, int i, T value) { ((volatile T*)out)[i * 32 + threadIdx.x] = value; }

extern "C" __global__ void integers(int* out, const int* a, const unsigned* u, const long long* l,
                                    const unsigned long long* v, const short* s, const unsigned short* t,
                                    const signed char* c) {
    int i = threadIdx.x;
    int x = a[i], y = a[i + 1], z = a[i + 2];
    unsigned p = u[i], q = u[i + 1], r = u[i + 2];
    long long m = l[i], n = l[i + 1];
    unsigned long long g = v[i], h = v[i + 1];
    keep(out, 0, __mul24(x, y));
    keep(out, 1, __umul24(p, q));
    keep(out, 2, __mulhi(x, y));
    keep(out, 3, __umulhi(p, q));
    keep(out, 4, (unsigned long long)__mul64hi(m, n));
    keep(out, 5, __umul64hi(g, h));
    keep(out, 6, __sad(x, y, r));
    keep(out, 7, __usad(p, q, r));
    keep(out, 8, __dp4a(x, y, z));
    keep(out, 9, __dp4a(p, q, r));
    keep(out, 10, __dp2a_lo(x, y, z));
    keep(out, 11, __dp2a_hi(p, q, r));
    keep(out, 12, __brev(p));
    keep(out, 13, __brevll(g));
    keep(out, 14, __byte_perm(p, q, r));
    keep(out, 15, __clz(x) + __clzll(m) + __ffs(x) + __ffsll(m) + __popc(p) + __popcll(g));
    keep(out, 16, __funnelshift_l(p, q, r));
    keep(out, 17, __funnelshift_lc(p, q, r));
    keep(out, 18, __funnelshift_r(p, q, r));
    keep(out, 19, __funnelshift_rc(p, q, r));
    keep(out, 20, __hadd(x, y) + __rhadd(x, y) + (int)__uhadd(p, q) + (int)__urhadd(p, q));
    keep(out, 21, __vadd4(p, q) + __vsub2(p, q) + __vmaxs4(p, q) + __vavgu4(p, q) + __vabsdiffu4(p, q));
    keep(out, 22, __vcmpeq4(p, q) + __vcmpgtu2(p, q) + __vsetltu4(p, q) + __vsads4(p, q) + __vabs4(p));
    keep(out, 23, __vibmax_s32(x, y, nullptr) + __viaddmax_s32(x, y, z) + __vimax3_s32_relu(x, y, z));
    keep(out, 24, __vimax_s16x2_relu(p, q) + __viaddmin_u16x2(p, q, r));
    unsigned __int128 big = (unsigned __int128)g * h + g;
    keep(out, 25, (unsigned long long)(big >> 64) + (unsigned long long)big);
    big += (unsigned __int128)h << 37;
    keep(out, 26, (unsigned long long)(big >> 3));
    keep(out, 27, (unsigned long long)(big / (h | 1)));
    keep(out, 28, x / y + x % y + (int)(p / q) + (int)(p % q));
    keep(out, 29, m / n + m % n + (long long)(g / h) + (long long)(g % h));
    short s0 = s[i], s1 = s[i + 1];
    unsigned short t0 = t[i], t1 = t[i + 1];
    keep(out, 30, (short)(s0 * s1 + s0 / s1 - s0 % s1 + (s0 >> 3) + max(s0, s1) + abs(s0)));
    keep(out, 31, (unsigned short)(t0 * t1 + t0 / t1 - t0 % t1 + (t0 >> 3) + min(t0, t1)));
    keep(out, 32, (int)c[i] * c[i + 1] + abs(x) + (int)llabs(m) + min(x, y) + (int)max(m, n) + (int)umin(p, q));
    keep(out, 33, (x >> (y & 31)) + (x << z) + (int)(p >> q) + (int)(m >> y) + (int)(g << y));
    struct { int a : 5; unsigned b : 11; int c : 16; } bits;
    memcpy(&bits, &x, 4);
    bits.b = q;
    keep(out, 34, bits.a + (int)bits.b * bits.c);
    keep(out, 35, (x & y) ^ (z | ~x));
    keep(out, 36, x == 0 ? y : z);
    bool f = x < y && z != 3 || p > q;
    keep(out, 37, (int)f);
    switch (x) {
    case 0: keep(out, 38, y); break;
    case 1: keep(out, 39, z + 1); break;
    case 2: keep(out, 40, y * z); break;
    case 3: keep(out, 41, y - z); break;
    case 4: keep(out, 42, y ^ z); break;
    case 5: keep(out, 43, y / 3); break;
    case 6: keep(out, 44, z % 7); break;
    }
}

extern "C" __global__ void floats(float* out, const float* a, const double* d) {
    int i = threadIdx.x;
    float x = a[i], y = a[i + 1], z = a[i + 2];
    double u = d[i], v = d[i + 1], w = d[i + 2];
    keep(out, 0, __fadd_rd(x, y) + __fadd_ru(x, y) + __fadd_rz(x, y) + __fadd_rn(x, y));
    keep(out, 1, __fmul_rd(x, y) + __fmul_ru(x, y) + __fmul_rz(x, y) + __fsub_rd(x, y));
    keep(out, 2, __fmaf_rd(x, y, z) + __fmaf_ru(x, y, z) + __fmaf_rz(x, y, z) + __fmaf_ieee_rd(x, y, z));
    keep(out, 3, __fdiv_rd(x, y) + __fdiv_ru(x, y) + __fdiv_rz(x, y) + x / y + __fdividef(x, y));
    keep(out, 4, __frcp_rd(x) + __frcp_ru(x) + __frcp_rz(x) + __frcp_rn(x));
    keep(out, 5, __fsqrt_rd(x) + __fsqrt_ru(x) + __fsqrt_rz(x) + sqrtf(x) + __frsqrt_rn(x) + rsqrtf(x));
    keep(out, 6, __sinf(x) + __cosf(x) + __expf(x) + __exp10f(x) + __logf(x) + __log2f(x) + __tanf(x) + __powf(x, y));
    keep(out, 7, sinf(x) + cosf(x) + expf(x) + exp2f(x) + logf(x) + log2f(x) + tanhf(x) + powf(x, y) + erff(x) + atan2f(x, y));
    keep(out, 8, fminf(x, y) + fmaxf(x, y) + fabsf(x) + copysignf(x, y) + fmodf(x, y) + remainderf(x, y) + __saturatef(x));
    keep(out, 9, floorf(x) + ceilf(x) + truncf(x) + rintf(x) + roundf(x) + nearbyintf(x) + ldexpf(x, 3) + cbrtf(x) + hypotf(x, y));
    keep(out, 10, (float)isnan(x) + isinf(x) + isfinite(x) + signbit(x) + lgammaf(x) + log1pf(x) + expm1f(x));
    keep(out, 11, __float2int_rd(x) + __float2int_ru(x) + __float2int_rn(x) + __float2int_rz(x) + (int)__float2uint_rd(x));
    keep(out, 12, __float2ll_rd(x) + __float2ll_rn(x) + (long long)__float2ull_rz(x) + (long long)__float2ull_ru(x));
    keep(out, 13, __int2float_rd(__float_as_int(x)) + __uint2float_ru(__float_as_uint(x)) + __ll2float_rz(__double_as_longlong(u)) + __ull2float_rn(__double_as_longlong(u)));
    keep(out, 14, __dadd_rd(u, v) + __dmul_ru(u, v) + __fma_rz(u, v, w) + __ddiv_rd(u, v) + __drcp_ru(u) + __dsqrt_rz(u) + __fma_rd(u, v, w) + __dsub_ru(u, v));
    keep(out, 15, u / v + sqrt(u) + rsqrt(u) + sin(u) + exp(u) + log(u) + fmin(u, v) + fmax(u, v) + fabs(u) + fma(u, v, w) + copysign(u, v));
    keep(out, 16, floor(u) + ceil(u) + trunc(u) + rint(u) + round(u) + fmod(u, v) + pow(u, v));
    keep(out, 17, __double2float_rd(u) + __double2float_rn(u) + (float)__double2int_rz(u) + (float)__double2ll_ru(u) + (float)__double2uint_rn(u));
    keep(out, 18, __int2double_rn(__double2hiint(u)) + __ll2double_rd(__double_as_longlong(v)) + __hiloint2double(3, 4) + __double2loint(w));
    keep(out, 19, (float)isnan(u) + isinf(u) + isfinite(u) + signbit(u));
    keep(out, 20, (x < y ? 1 : 2) + (x != z ? 4 : 8) + (!(x >= z) ? 16 : 32) + (u <= v ? 64 : 128));
    float si, co;
    sincosf(x, &si, &co);
    keep(out, 21, si * co);
    keep(out, 22, (signed char)x + (unsigned char)y + (short)z + (unsigned short)x);
    keep(out, 23, fdimf(x, y) + ilogbf(x) + logbf(x) + nextafterf(x, y) + scalbnf(x, 2) + frexpf(x, (int*)&si) + modff(x, &co));
}

extern "C" __global__ void halves(uint32_t* out, const __half2* a, const __nv_bfloat162* b, const float* f) {
    int i = threadIdx.x;
    __half2 x = a[i], y = a[i + 1], z = a[i + 2];
    __nv_bfloat162 p = b[i], q = b[i + 1], r = b[i + 2];
    __half h = x.x, k = y.x;
    __nv_bfloat16 m = p.x, n = q.x;
    keep(out, 0, __half2_raw(__hadd2(x, y)).x + __half2_raw(__hsub2(x, y)).x + __half2_raw(__hmul2(x, y)).x);
    keep(out, 1, __half2_raw(__hfma2(x, y, z)).x + __half2_raw(__hfma2_sat(x, y, z)).x + __half2_raw(__hfma2_relu(x, y, z)).x + __half2_raw(__hadd2_sat(x, y)).y + __half2_raw(__hmul2_sat(x, y)).y);
    keep(out, 2, __half2_raw(__h2div(x, y)).x + __half2_raw(h2sqrt(x)).x + __half2_raw(h2rsqrt(x)).x + __half2_raw(h2rcp(x)).x + __half2_raw(h2exp(x)).x + __half2_raw(h2exp2(x)).x + __half2_raw(h2log(x)).x + __half2_raw(h2sin(x)).x + __half2_raw(h2cos(x)).x + __half2_raw(h2tanh(x)).x + __half2_raw(h2tanh_approx(x)).x);
    keep(out, 3, __half2_raw(__hmin2(x, y)).x + __half2_raw(__hmax2(x, y)).x + __half2_raw(__hmax2_nan(x, y)).x + __half2_raw(__habs2(x)).x + __half2_raw(__hneg2(x)).x);
    keep(out, 4, __heq2_mask(x, y) + __hlt2_mask(x, y) + __hgtu2_mask(x, y) + __half2_raw(__hge2(x, y)).x + __half2_raw(__hneu2(x, y)).x + (uint32_t)__hbeq2(x, y) + (uint32_t)__hbltu2(x, y));
    keep(out, 5, (uint32_t)(__heq(h, k) + __hlt(h, k) + __hgeu(h, k) + __hisnan(h) + __hisinf(h)));
    keep(out, 6, __half2float(h) + __half2float(__float2half_rd(f[i])) + __half2float(__float2half_ru(f[i])) + __half2float(__float2half_rz(f[i])));
    keep(out, 7, __half2int_rn(h) + __half2int_rd(h) + (int)__half2uint_ru(h) + (int)__half2ll_rz(h) + __half2short_rn(h) + (int)__half2ushort_rz(h) + (int)__half2char_rz(h));
    keep(out, 8, __half_as_ushort(__int2half_rn(i)) + __half_as_ushort(__uint2half_ru(i)) + __half_as_ushort(__ll2half_rd(i)) + __half_as_ushort(__short2half_rz(i)) + __half_as_ushort(__ushort2half_rn(i)) + __half_as_ushort(__double2half(f[i])));
    keep(out, 9, __half2_raw(__floats2half2_rn(f[i], f[i + 1])).x + __half2_raw(__float2half2_rn(f[i])).x);
    keep(out, 10, __half_as_ushort(hfloor(h)) + __half_as_ushort(hceil(h)) + __half_as_ushort(hrint(h)) + __half_as_ushort(htrunc(h)) + __half_as_ushort(hexp2(h)) + __half_as_ushort(htanh_approx(h)) + __half_as_ushort(__hfma_sat(h, k, h)) + __half_as_ushort(__hdiv(h, k)));
    keep(out, 20, __nv_bfloat162_raw(__hadd2(p, q)).x + __nv_bfloat162_raw(__hsub2(p, q)).x + __nv_bfloat162_raw(__hmul2(p, q)).x + __nv_bfloat162_raw(__hfma2(p, q, r)).x + __nv_bfloat162_raw(__hfma2_relu(p, q, r)).x + __nv_bfloat162_raw(__hfma2_sat(p, q, r)).x + __nv_bfloat162_raw(__hadd2_sat(p, q)).x);
    keep(out, 21, __nv_bfloat162_raw(__hmin2(p, q)).x + __nv_bfloat162_raw(__hmax2_nan(p, q)).x + __nv_bfloat162_raw(__habs2(p)).x + __nv_bfloat162_raw(__hneg2(p)).x + __nv_bfloat162_raw(h2exp2(p)).x + __nv_bfloat162_raw(h2tanh_approx(p)).x + __nv_bfloat162_raw(h2sqrt(p)).x + __nv_bfloat162_raw(__h2div(p, q)).x);
    keep(out, 22, __heq2_mask(p, q) + __hlt2_mask(p, q) + __nv_bfloat162_raw(__hge2(p, q)).x + (uint32_t)__hbne2(p, q) + (uint32_t)(__hlt(m, n) + __hisnan(m)));
    keep(out, 23, __bfloat162float(m) + __bfloat162float(__float2bfloat16_rd(f[i])) + __bfloat162float(__float2bfloat16_rz(f[i])) + __bfloat162float(__float2bfloat16_rn(f[i])));
    keep(out, 24, __bfloat162int_rn(m) + (int)__bfloat162uint_rz(m) + (int)__bfloat162ll_rd(m) + __bfloat162short_rn(m));
    keep(out, 25, __bfloat16_as_ushort(__int2bfloat16_rn(i)) + __bfloat16_as_ushort(__uint2bfloat16_ru(i)) + __bfloat16_as_ushort(__ll2bfloat16_rd(i)) + __bfloat16_as_ushort(__short2bfloat16_rn(i)) + __bfloat16_as_ushort(__double2bfloat16(f[i])));
    keep(out, 26, __nv_bfloat162_raw(__floats2bfloat162_rn(f[i], f[i + 1])).x + __bfloat16_as_ushort(hfloor(m)) + __bfloat16_as_ushort(hrint(m)) + __bfloat16_as_ushort(__hadd(m, n)) + __bfloat16_as_ushort(__hmul(m, n)) + __bfloat16_as_ushort(__hsub(m, n)) + __bfloat16_as_ushort(__hfma(m, n, m)) + __bfloat16_as_ushort(__hmax(m, n)));
    keep(out, 27, __nv_cvt_float_to_fp8(f[i], __NV_SATFINITE, __NV_E4M3) + __nv_cvt_float2_to_fp8x2(make_float2(f[i], f[i + 1]), __NV_SATFINITE, __NV_E5M2) + __half2_raw(__nv_cvt_fp8x2_to_halfraw2(i, __NV_E4M3)).x + __nv_cvt_halfraw2_to_fp8x2(x, __NV_SATFINITE, __NV_E4M3) + __nv_cvt_bfloat16raw2_to_fp8x2(p, __NV_SATFINITE, __NV_E5M2));
}

extern "C" __global__ void warps(unsigned* out, const unsigned* in, const unsigned long long* wide) {
    int i = threadIdx.x;
    unsigned x = in[i];
    unsigned m = __activemask();
    keep(out, 0, __shfl_sync(m, x, 3) + __shfl_up_sync(m, x, 1, 8) + __shfl_down_sync(m, x, 2, 16) + __shfl_xor_sync(m, x, 5));
    keep(out, 1, __shfl_sync(m, wide[i], 3) + (unsigned long long)__shfl_sync(m, (double)x, 2));
    keep(out, 2, __ballot_sync(m, x > 3) + __any_sync(m, x > 4) + __all_sync(m, x > 5));
    keep(out, 3, __match_any_sync(m, x) + __match_any_sync(m, wide[i]));
    int all;
    keep(out, 4, __match_all_sync(m, x, &all) + all);
    keep(out, 5, __reduce_add_sync(m, x) + __reduce_min_sync(m, x) + __reduce_max_sync(m, (int)x) + __reduce_and_sync(m, x) + __reduce_or_sync(m, x) + __reduce_xor_sync(m, x));
    __syncwarp(m);
    keep(out, 6, __syncthreads_count(x > 1) + __syncthreads_and(x > 2) + __syncthreads_or(x > 3));
    keep(out, 7, __ballot_sync(m, true) + __any_sync(m, false) + __shfl_sync(0xffffffffu, (int)(short)x, 0));
    keep(out, 8, __fns(x, 3, 2));
    unsigned id, lt, ge;
    asm("mov.u32 %0, %%laneid;" : "=r"(id));
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(lt));
    asm("mov.u32 %0, %%lanemask_ge;" : "=r"(ge));
    keep(out, 9, id + lt + ge + warpSize + (unsigned)clock() + (unsigned)clock64());
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    keep(out, 10, tile.shfl_down(x, 1) + tile.ballot(x > 2) + warp.shfl_xor(x, 9) + tile.any(x > 1) + tile.match_any(x));
    auto active = cg::coalesced_threads();
    keep(out, 11, active.thread_rank() + active.size() + active.shfl(x, 0));
    cg::this_thread_block().sync();
    tile.sync();
}

extern "C" __global__ void memories(float* out, const float* __restrict__ in, float4* wide, unsigned* u,
                                    unsigned long long* l, double* d, __half2* h, __nv_bfloat162* b) {
    __shared__ float tile[256];
    __shared__ unsigned s[32];
    __shared__ unsigned long long sl[4];
    extern __shared__ float4 dynamic[];
    int i = threadIdx.x;
    out[i] = __ldg(in + i) + __ldcg(in + i) + __ldca(in + i) + __ldcs(in + i) + __ldlu(in + i) + __ldcv(in + i);
    __stwb(out + i, 1.f), __stcg(out + i, 2.f), __stcs(out + i, 3.f), __stwt(out + i, 4.f);
    float4 v = __ldg(wide + i);
    float4 w = __ldcg(wide + i);
    __stcs(wide + i, make_float4(v.x + w.x, v.y, v.z, w.w));
    dynamic[i] = v;
    tile[i] = dynamic[i ^ 1].x;
    __syncthreads();
    atomicAdd(out, tile[i]), atomicAdd(u, 1u), atomicAdd(l, 1ull), atomicAdd(d, 1.0), atomicAdd(h, *h), atomicAdd(b, *b);
    atomicSub(u, 3u), atomicExch(out + 1, 3.f), atomicMin((int*)u, 3), atomicMax(u, 3u), atomicMin(l, 5ull), atomicMax((long long*)l, 5ll);
    u[3] = atomicInc(u, 7u) + atomicDec(u, 7u) + atomicCAS(u, 1u, 2u) + atomicAnd(u, 5u) + atomicOr(u, 6u) + atomicXor(u, 7u);
    l[1] = atomicCAS(l, 1ull, 2ull) + atomicExch(l, 9ull) + atomicAnd(l, 5ull) + atomicOr(l, 6ull) + atomicXor(l, 7ull);
    atomicCAS((unsigned short*)u, (unsigned short)1, (unsigned short)2);
    atomicAdd_block(u, 1u), atomicAdd_system(u, 1u), atomicAdd((__half*)h, __float2half(1.f)), atomicAdd((__nv_bfloat16*)b, __float2bfloat16(1.f));
    atomicAdd(s, 1u), atomicMax(s, 3u), atomicCAS(s, 1u, 2u), atomicAdd(sl, 1ull), atomicCAS(sl, 1ull, 2ull), atomicAdd(tile, 1.f);
    __threadfence(), __threadfence_block(), __threadfence_system();
    __pipeline_memcpy_async(dynamic + i, wide + i, 16);
    __pipeline_memcpy_async(tile + i, in + i, 4);
    __pipeline_memcpy_async((float2*)tile + i, (const float2*)in + i, 8, 4);
    __pipeline_commit();
    __pipeline_wait_prior(0);
    volatile float* vo = out;
    vo[3] = vo[4];
    float spill[40];
    for (int k = 0; k < 40; k++) spill[k] = in[k];
    out[5] = spill[(int)in[0] & 31];
    __nanosleep(20);
    out[7] = __isShared(tile + i) + __isGlobal(out) + __isLocal(spill) + __isConstant(out);
    unsigned address = (unsigned)__cvta_generic_to_shared(tile + i);
    out[8] = address;
    memset(spill, 1, sizeof spill);
    memcpy(out + 60, spill, 64);
    struct { char c[7]; short s; } odd = {};
    odd.c[i & 7] = (char)i;
    out[9] = odd.c[(int)in[1] & 7] + odd.s;
    __prof_trigger(1);
    if (in[3] == 7) __brkpt();
    if (in[4] == 7) __trap();
}

extern "C" __global__ void grids(float* out) {
    auto grid = cg::this_grid();
    out[grid.thread_rank()] = grid.size();
    grid.sync();
    out[1] = grid.block_rank();
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ __noinline__ float helper(float4 v, int n, double d) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += v.x * i + v.y - (float)d;
    return sum;
}
__constant__ float table[64] = {1, 2, 3};
__device__ float state[4] = {1.5f};
extern "C" __global__ void calls(float* out, int n, const __grid_constant__ float4 big) {
    out[threadIdx.x] = helper(make_float4(out[0], out[1], 2, 3), n, 3.0) + table[n] + state[n & 3] + big.x;
    state[1] = 3;
    assert(n < 100);
}

extern "C" __global__ void pairs(unsigned* out, const unsigned* in) {
    unsigned a = in[0], b = in[1], c = in[2];
    bool p, q;
    out[0] = __vabs2(a);
    out[1] = __vabs4(a);
    out[2] = __vabsss2(a);
    out[3] = __vabsss4(a);
    out[4] = __vneg2(a);
    out[5] = __vneg4(a);
    out[6] = __vnegss2(a);
    out[7] = __vnegss4(a);
    out[8] = __vadd2(a, b);
    out[9] = __vadd4(a, b);
    out[10] = __vaddss2(a, b);
    out[11] = __vaddss4(a, b);
    out[12] = __vaddus2(a, b);
    out[13] = __vaddus4(a, b);
    out[14] = __vsub2(a, b);
    out[15] = __vsub4(a, b);
    out[16] = __vsubss2(a, b);
    out[17] = __vsubss4(a, b);
    out[18] = __vsubus2(a, b);
    out[19] = __vsubus4(a, b);
    out[20] = __vavgs2(a, b);
    out[21] = __vavgs4(a, b);
    out[22] = __vavgu2(a, b);
    out[23] = __vavgu4(a, b);
    out[24] = __vhaddu2(a, b);
    out[25] = __vhaddu4(a, b);
    out[26] = __vmaxs2(a, b);
    out[27] = __vmaxs4(a, b);
    out[28] = __vmaxu2(a, b);
    out[29] = __vmaxu4(a, b);
    out[30] = __vmins2(a, b);
    out[31] = __vmins4(a, b);
    out[32] = __vminu2(a, b);
    out[33] = __vminu4(a, b);
    out[34] = __vabsdiffs2(a, b);
    out[35] = __vabsdiffs4(a, b);
    out[36] = __vabsdiffu2(a, b);
    out[37] = __vabsdiffu4(a, b);
    out[38] = __vsads2(a, b);
    out[39] = __vsads4(a, b);
    out[40] = __vsadu2(a, b);
    out[41] = __vsadu4(a, b);
    out[42] = __vcmpeq2(a, b);
    out[43] = __vcmpeq4(a, b);
    out[44] = __vcmpges2(a, b);
    out[45] = __vcmpges4(a, b);
    out[46] = __vcmpgeu2(a, b);
    out[47] = __vcmpgeu4(a, b);
    out[48] = __vcmpgts2(a, b);
    out[49] = __vcmpgts4(a, b);
    out[50] = __vcmpgtu2(a, b);
    out[51] = __vcmpgtu4(a, b);
    out[52] = __vcmpne2(a, b);
    out[53] = __vcmpne4(a, b);
    out[54] = __vcmples4(a, b);
    out[55] = __vcmpltu2(a, b);
    out[56] = __vseteq2(a, b);
    out[57] = __vseteq4(a, b);
    out[58] = __vsetges2(a, b);
    out[59] = __vsetges4(a, b);
    out[60] = __vsetgtu2(a, b);
    out[61] = __vsetne4(a, b);
    out[62] = __vimax_s16x2_relu(a, b);
    out[63] = __vimin_s16x2_relu(a, b);
    out[64] = __vimax_s32_relu(a, b);
    out[65] = __vimin_s32_relu(a, b);
    out[66] = __viaddmax_s32(a, b, c);
    out[67] = __viaddmax_s32_relu(a, b, c);
    out[68] = __viaddmax_u32(a, b, c);
    out[69] = __viaddmax_s16x2(a, b, c);
    out[70] = __viaddmax_s16x2_relu(a, b, c);
    out[71] = __viaddmax_u16x2(a, b, c);
    out[72] = __viaddmin_s32(a, b, c);
    out[73] = __viaddmin_s16x2(a, b, c);
    out[74] = __viaddmin_u16x2(a, b, c);
    out[75] = __vimax3_s32(a, b, c);
    out[76] = __vimax3_u32(a, b, c);
    out[77] = __vimax3_s16x2(a, b, c);
    out[78] = __vimax3_s16x2_relu(a, b, c);
    out[79] = __vimax3_u16x2(a, b, c);
    out[80] = __vimin3_s32_relu(a, b, c);
    out[81] = __vimin3_u16x2(a, b, c);
    out[82] = __vimin3_s16x2_relu(a, b, c);
    out[83] = __vibmax_s32(a, b, &p) + p;
    out[84] = __vibmax_u32(a, b, &p) + p;
    out[85] = __vibmin_s32(a, b, &p) + p;
    out[86] = __vibmin_u32(a, b, &p) + p;
    out[87] = __vibmax_s16x2(a, b, &p, &q) + p * 2 + q;
    out[88] = __vibmax_u16x2(a, b, &p, &q) + p * 2 + q;
    out[89] = __vibmin_s16x2(a, b, &p, &q) + p * 2 + q;
    out[90] = __vibmin_u16x2(a, b, &p, &q) + p * 2 + q;
}
