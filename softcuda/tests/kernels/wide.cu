// Atomics on vectors and on 16 bytes, as CUDA C++ has them from compute capability 9.0 on.

struct alignas(16) Pair {
    unsigned long long a, b;
};

// Adds one to `a` and two to `b` of a pair, as one; what is read must be such a pair.
extern "C" __global__ void count_pairs(Pair *cell, unsigned *torn) {
    Pair old, next;
    __nv_atomic_load(cell, &old, __NV_ATOMIC_RELAXED, __NV_THREAD_SCOPE_DEVICE);
    do {
        if (old.b != 1000 + 2 * old.a) atomicAdd(torn, 1);
        next.a = old.a + 1;
        next.b = old.b + 2;
    } while (!__nv_atomic_compare_exchange(cell, &old, &next, false, __NV_ATOMIC_RELAXED, __NV_ATOMIC_RELAXED,
                                           __NV_THREAD_SCOPE_DEVICE));
}

extern "C" __global__ void add_vectors(float4 *four, float2 *two, Pair *swap, Pair *olds) {
    atomicAdd(four, make_float4(1, 2, 3, 4));
    float2 old = atomicAdd(two, make_float2(3, 1));
    if (old.x >= 2) atomicAdd_block(two, make_float2(0, 0.5f));
    Pair mine = {100 + threadIdx.x, 200 + threadIdx.x}, was;
    __nv_atomic_exchange(swap, &mine, &was, __NV_ATOMIC_ACQ_REL, __NV_THREAD_SCOPE_SYSTEM);
    olds[threadIdx.x] = was;
}
