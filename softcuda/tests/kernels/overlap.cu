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

// Faults of single accesses, chosen by `what`.
extern "C" __global__ void faults(int* data, int n, int what) {
    __shared__ int shared[64];
    int t = threadIdx.x;
    if (what == 0) data[n + t] = t;                    // behind the end
    if (what == 1) *(int*)((char*)data + 2 + 4 * t) = t; // misaligned
    if (what == 2) data[t] = shared[t % 64];           // never written
    if (what == 3) data[t] = data[t + 64];             // never written
    if (what == 4) {
        if (t < 16) __syncthreads();                   // not by all
        else data[t] = t;
    }
    if (what == 5) {
        volatile int* flag = data;
        if (t == 0) data[0] = 0;
        while (*flag == 0) {                           // never set
        }
    }
    if (what == 6) data[0] = blockIdx.x;               // by every block
    if (what == 7) asm volatile("trap;");
    if (what == 8) atomicAdd_block(data + 1, 1);       // across blocks
    if (what == 9) shared[t + 64 * 1024] = 1;          // outside the block's shared memory
    if (what == 10 && t == 0) {                        // a lane outside its member mask
        int v = t;
        asm volatile("shfl.sync.idx.b32 %0, %0, 0, 31, 0xfffffffe;" : "+r"(v));
        data[0] = v;
    }
}
