// The kernels of the driver's tests. `make -C softcuda/tests/driver` compiles them again into
// fixtures/, for which it needs nvcc.

// y[i] += a x[i]
extern "C" __global__ void saxpy(float *y, const float *x, float a, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] += a * x[i];
}

// p[i] += by
extern "C" __global__ void add(int *p, int by, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] += by;
}

// p[i] = p[i] * 2 + 1: the order of two such launches and of one of `add` can be told
extern "C" __global__ void twice_plus_one(int *p, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) p[i] = p[i] * 2 + 1;
}

// Writes one element behind the end.
extern "C" __global__ void beyond(int *p, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) p[i] = i;
}

// A parameter of every size, at every alignment.
struct Mixed {
    char a;
    double b;
    short c;
};
extern "C" __global__ void mixed(double *out, char a, Mixed m, short b, double c) {
    out[0] = a;
    out[1] = m.a;
    out[2] = m.b;
    out[3] = m.c;
    out[4] = b;
    out[5] = c;
}

// Reverses the block through dynamic shared memory.
extern "C" __global__ void reverse(int *p) {
    extern __shared__ int shared[];
    shared[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__device__ int counter = 5;

extern "C" __global__ void count() {
    if (threadIdx.x == 0) atomicAdd(&counter, 1);
}

extern "C" __global__ void __launch_bounds__(128) small_blocks(int *p) { p[threadIdx.x] = 1; }

#if __CUDA_ARCH__ >= 900
// Lets its successor start, then writes.
extern "C" __global__ void first(int *p) {
    asm volatile("griddepcontrol.launch_dependents;");
    p[threadIdx.x] = 7;
}

// Waits for its predecessor, then reads what it wrote.
extern "C" __global__ void second(int *q, const int *p) {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    q[threadIdx.x] = *(volatile const int *)(p + threadIdx.x) + 1;
}
#endif
