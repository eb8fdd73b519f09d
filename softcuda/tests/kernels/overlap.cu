#include <assert.h>

// A chain of launches by programmatic dependent launch: each adds one to every element of what its
// predecessor wrote.
extern "C" __global__ void step(float* out, const float* in, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
#ifndef FAULT_NO_WAIT
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    asm volatile("griddepcontrol.launch_dependents;");
#ifdef FAULT_NON_COHERENT
    if (i < n) out[i] = __ldg(out + i) + 1;
#else
    if (i < n) out[i] = in[i] + 1;
#endif
}

// Faults of single accesses, chosen by `what`; with MENDED the same without the fault.
#ifdef MENDED
#define WRONG(wrong, right) right
#else
#define WRONG(wrong, right) wrong
#endif
extern "C" __global__ void faults(int* data, int n, int what) {
    __shared__ int shared[64];
    int t = threadIdx.x;
    if (what == 0) data[WRONG(n, 0) + t] = t;                            // behind the end
    if (what == 1) *(int*)((char*)data + WRONG(2, 4) + 4 * (t % 8)) = 1; // misaligned
    if (what == 2) {
        if (WRONG(t < 0, true)) shared[t % 64] = t;
        __syncwarp();
        data[t] = shared[t % 64];                      // what == 2: never written
    }
    if (what == 3) data[t] = data[t + WRONG(64, 0)];   // never written, what == 3
    if (what == 4) {
        if (WRONG(t < 16, true)) __syncthreads();      // not by all
        else data[t] = t;
    }
    if (what == 5) {
        volatile int* flag = data;
        if (t == 0) data[0] = WRONG(0, 1);
        while (*flag == 0) {                           // never set
        }
    }
    if (what == 6) data[WRONG(0, blockIdx.x)] = blockIdx.x; // what == 6: by every block
    if (what == 7 && WRONG(true, n < 0)) asm volatile("trap;"); // what == 7
    if (what == 8) WRONG(atomicAdd_block, atomicAdd)(data + 1, 1); // across blocks
    if (what == 9) shared[t + WRONG(64 * 1024, 0)] = 1; // what == 9: outside the block's shared memory
    if (what == 10 && t == 0) {                        // a lane outside its member mask
        int v = t;
#ifdef MENDED
        asm volatile("shfl.sync.idx.b32 %0, %0, 0, 31, 1;" : "+r"(v));
#else
        asm volatile("shfl.sync.idx.b32 %0, %0, 0, 31, 0xfffffffe;" : "+r"(v));
#endif
        data[0] = v;
    }
    if (what == 11) {
        int local[8];
        for (int i = 0; i < WRONG(7, 8); i++) local[i] = n + i;
        data[t] = local[7 - n % 2];                    // what == 11: local memory, never written
    }
    if (what == 12) {
        int local[8];
        for (int i = 0; i < 8; i++) local[i] = n + i;
        data[t] = local[WRONG(n, n % 8)];              // what == 12: outside of local memory
    }
    if (what == 13) assert(WRONG(t < 3, t < 32));      // what == 13
    if (what == 14) {
        int v = 0;
        if (WRONG(t != 31, true)) v = __reduce_add_sync(0xffffffffu, t); // what == 14: one does not come
        data[t] = v;
        if (WRONG(t == 31, false)) {
            while (*(volatile int*)(data + 1) == 0) {
            }
        }
    }
}

// The middle of a chain of three: with the fault it ends without having waited, and its successor,
// which waits for it alone, cannot know that the first one is complete.
extern "C" __global__ void middle(float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = 1;
#ifndef FAULT_MIDDLE
    if (threadIdx.x == 0 && blockIdx.x == 1) asm volatile("griddepcontrol.wait;" ::: "memory"); // one is enough
#endif
}
