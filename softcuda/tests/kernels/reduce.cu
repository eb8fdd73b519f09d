// Sums: by shuffles within a block, by the last block across blocks, by a look-back scan, and with
// a barrier of the whole grid. FAULT_* plants one mistake each.

__device__ float warp_sum(float v) {
    for (int offset = 16; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
    return v;
}

// Sum over the block; every thread gets it. `partial` holds one float per warp.
__device__ float block_sum(float v, float* partial) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    v = warp_sum(v);
#ifdef FAULT_SHARED_RACE
    if (warp == 0) partial[lane] = 0;  // else the first fault would be a read of what was never written
    __syncthreads();
#endif
    if (lane == 0) partial[warp] = v;
#ifndef FAULT_SHARED_RACE
    __syncthreads();
#endif
    float sum = 0;
    for (int w = 0; w < blockDim.x / 32; w++) sum += partial[w];
    __syncthreads();
    return sum;
}

// out[0] = sum of in[n]. blocks x 256 threads; reads 4 n bytes. partials: one float per block.
extern "C" __global__ void sum_last_block(float* out, float* partials, unsigned* counter,
                                          const float* in, int n) {
    __shared__ float scratch[32];
    __shared__ bool last;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
    v = block_sum(v, scratch);
    if (threadIdx.x == 0) {
        partials[blockIdx.x] = v;
#ifndef FAULT_NO_FENCE
        __threadfence();
#endif
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
#ifndef FAULT_NO_FENCE
        __threadfence();
#endif
        float sum = 0;
        for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += partials[b];
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0) {
            out[0] = sum;
            *counter = 0;
        }
    }
}

// The same as CUDA's sample threadFenceReduction has it: every thread fences, thread 0 takes a ticket
// after that, and the last block sets the counter back with a plain store, which no fence orders
// behind the atomics of the others: the ticket that it saw does. out[0] = sum of in[n].
extern "C" __global__ void sum_ticket(float* out, float* partials, unsigned* counter,
                                      const float* in, int n) {
    __shared__ float scratch[32];
    __shared__ bool last;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
    v = block_sum(v, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = v;
#ifndef FAULT_NO_FENCE
    __threadfence();
#endif
    __syncthreads();
#ifdef FAULT_EARLY_RESET
    if (blockIdx.x == 0 && threadIdx.x == 0) *counter = 0;
#endif
    if (threadIdx.x == 0) {
        last = atomicInc(counter, gridDim.x) == gridDim.x - 1;
        __threadfence();  // which the sample leaves out: nothing else orders the reads below
    }
    __syncthreads();
    if (last) {
        float sum = 0;
        for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += partials[b];
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 32) {
            out[0] = sum;
            *counter = 0;
        }
    }
}

// And as the programming guide has it: partial sums are volatile, and nobody fences behind the ticket.
extern "C" __global__ void sum_volatile(volatile float* result, unsigned* counter, const float* in, int n) {
    __shared__ float scratch[32];
    __shared__ bool last;
    float v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += in[i];
    v = block_sum(v, scratch);
    if (threadIdx.x == 0) {
        result[blockIdx.x] = v;
        __threadfence();
        last = atomicInc(counter, gridDim.x) == gridDim.x - 1;
    }
    __syncthreads();
    if (last) {
        float sum = 0;
        for (int b = threadIdx.x; b < gridDim.x; b += blockDim.x) sum += result[b];
        sum = block_sum(sum, scratch);
        if (threadIdx.x == 0) {
            result[0] = sum;
            *counter = 0;
        }
    }
}

// Block 0 hands a number over: what is behind the fence is not handed over with the flag.
extern "C" __global__ void hand_over(unsigned* out, unsigned* data, unsigned* flag) {
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) {
#ifdef FAULT_LATE_ATOMIC
        __threadfence();
        atomicAdd(data, 5u);
#else
        atomicAdd(data, 5u);
        __threadfence();
#endif
        atomicAdd(flag, 1u);
    } else {
        while (*(volatile unsigned*)flag == 0) {
        }
        __threadfence();
        out[0] = *data;
    }
}

// The same within a block, in shared memory. Who saw the flag may set it back with a plain store.
extern "C" __global__ void hand_over_in_block(unsigned* out, const unsigned* in) {
    __shared__ unsigned data, flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        data = in[0];  // a constant would never lie in memory
#ifdef FAULT_NO_FENCE
        asm volatile("" ::: "memory");  // the compiler stores all the same
#else
        __threadfence_block();
#endif
#ifdef FAULT_PLAIN_FLAG
        flag = 1;
#else
        *(volatile unsigned*)&flag = 1;
#endif
    } else if (threadIdx.x == 32) {
        while (*(volatile unsigned*)&flag == 0) {
        }
#ifdef FAULT_NO_FENCE
        asm volatile("" ::: "memory");
#else
        __threadfence_block();
#endif
        out[0] = data;
        flag = 0;
    }
}

// Warps count themselves in; the last one sets the counter back with a plain store, which the
// count that it saw orders behind the atomics of the others. Twice.
extern "C" __global__ void last_warp(unsigned* out) {
    __shared__ unsigned count;
    int warps = blockDim.x / 32;
    if (threadIdx.x == 0) count = 0;
    for (int round = 0; round < 2; round++) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            unsigned before = atomicAdd(&count, 1u);
#ifdef FAULT_EARLY_RESET
            if (before == 0) count = 100;
#else
            if (before == warps - 1) count = 100;
#endif
        }
        __syncthreads();
        // volatile loads and plain ones do not race
        unsigned seen = threadIdx.x < 32 ? *(volatile unsigned*)&count : count;
        out[blockDim.x * round + threadIdx.x] = seen;
        __syncthreads();
        if (threadIdx.x == 0) count = 0;
    }
}

// A barrier of the grid: one counter that only grows.
__device__ void grid_barrier(unsigned* counter, unsigned goal) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1u);
        while (*(volatile unsigned*)counter < goal) {
        }
        __threadfence();
    }
    __syncthreads();
}

// Each round every block replaces its slot by the sum of all slots (in floats that stay small).
extern "C" __global__ void grid_rounds(unsigned* slots, unsigned* next, unsigned* counter, int rounds) {
    for (int round = 0; round < rounds; round++) {
        if (threadIdx.x == 0) {
            unsigned sum = 0;
            for (int b = 0; b < gridDim.x; b++) sum += slots[b];
            next[blockIdx.x] = sum + blockIdx.x;
        }
#ifndef FAULT_NO_BARRIER
        grid_barrier(counter, (round + 1) * gridDim.x);
#endif
        unsigned* t = slots;
        slots = next;
        next = t;
    }
}

// Inclusive scan with decoupled look-back: status (0 nothing, 1 sum of the block, 2 sum up to it)
// and value share 64 bits. Blocks take their number from a ticket.
extern "C" __global__ void scan(unsigned* out, const unsigned* in, unsigned long long* state,
                                unsigned* ticket, int n) {
    __shared__ unsigned number, before;
    __shared__ unsigned sums[32];
    if (threadIdx.x == 0) number = atomicAdd(ticket, 1u);
    __syncthreads();
    int i = number * blockDim.x + threadIdx.x;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned v = i < n ? in[i] : 0;
    for (int offset = 1; offset < 32; offset *= 2) {
        unsigned o = __shfl_up_sync(0xffffffffu, v, offset);
        if (lane >= offset) v += o;
    }
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    for (int w = 0; w < warp; w++) v += sums[w];
    if (threadIdx.x == blockDim.x - 1) {
        volatile unsigned long long* s = state;
        unsigned long long kind = number == 0 ? 2ull : 1ull;
        s[number] = kind << 32 | v;
        unsigned sum = 0;
        for (int b = (int)number - 1; b >= 0; b--) {
            unsigned long long seen;
            do {
                seen = s[b];
            } while (seen >> 32 == 0);
            sum += (unsigned)seen;
            if (seen >> 32 == 2) break;
        }
        s[number] = 2ull << 32 | (sum + v);
        before = sum;
    }
    __syncthreads();
    if (i < n) out[i] = v + before;
}

// out[column][row] = in[row][column] through a tile of 32 x 32; block 32 x 8.
extern "C" __global__ void transpose(float* out, const float* in, int rows, int columns) {
#ifdef CONFLICTS
    __shared__ float tile[32][32];
#else
    __shared__ float tile[32][33];
#endif
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < columns && y + j < rows) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * columns + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < rows && y + j < columns) out[(y + j) * rows + x] = tile[threadIdx.x][threadIdx.y + j];
}

// Softmax of one long row in two launches: each block finds maximum and sum of its part, the
// second combines them. 128 threads.
extern "C" __global__ void softmax_split(float2* partial, const float* in, int n) {
    __shared__ float scratch[32];
    int each = (n + gridDim.x - 1) / gridDim.x, start = blockIdx.x * each;
    int end = min(n, start + each);
    float best = -INFINITY;
    for (int i = start + threadIdx.x; i < end; i += blockDim.x) best = fmaxf(best, in[i]);
    for (int offset = 16; offset > 0; offset /= 2)
        best = fmaxf(best, __shfl_xor_sync(0xffffffffu, best, offset));
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
    __syncthreads();
    for (int w = 0; w < blockDim.x / 32; w++) best = fmaxf(best, scratch[w]);
    __syncthreads();
    float sum = 0;
    for (int i = start + threadIdx.x; i < end; i += blockDim.x) sum += __expf(in[i] - best);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = make_float2(best, sum);
}

extern "C" __global__ void softmax_join(float* out, const float2* partial, const float* in, int parts,
                                        int n) {
    float best = -INFINITY, sum = 0;
    for (int p = 0; p < parts; p++) {
        float2 part = partial[p];
        float next = fmaxf(best, part.x);
        sum = sum * __expf(best - next) + part.y * __expf(part.x - next);
        best = next;
    }
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = __expf(in[i] - best) / sum;
}
