// Work of a team of blocks on rows over the vocabulary: laws, cuts, sums in the stated order, draws.
//
// A team is `size` blocks of 256 threads that are resident at the same time. Ids are cut in chunks of
// 128 consecutive ones, as sums are (src/verify/math.rs): chunk c belongs to warp c / size % 8 of block
// c % size, lane l holds the ids 4 l .. 4 l + 3 of it. Every block takes every decision, on the same
// numbers; what blocks tell each other goes through the team's exchange, between two barriers.
#pragma once
#include "best.cuh"
#include "ptx.cuh"
#include "real.cuh"

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr int CHUNK = 128;
constexpr int SLICES = 3;
constexpr int BINS = 256;
constexpr int SUMS = 4;  // sums over the vocabulary that one sweep takes

// Numbers that blocks add up, all zero before; three in turn: what is added to, what is read, and
// what is cleared for the next.
struct Bins {
    u64 weight[BINS];
    unsigned count[BINS];
};

// A team's exchange in device memory. `arrived` and `generation` are zero before the first launch.
struct Exchange {
    unsigned arrived, generation;
    int token;
    float probability;
    float at_node[2][MAX_NODES + 1];  // a residual at the row's children
    Best best[MAX_NODES + 1], drafter_best[MAX_NODES + 1];  // of rows
    // the best tokens of a row, in no order
    float top_value[MAX_NODES];
    int top_token[MAX_NODES];
    int reserved[2];
    Bins bins[3];
};
static_assert(sizeof(Exchange) == 16 + 8 * (MAX_NODES + 1) + 32 * (MAX_NODES + 1) + 8 * MAX_NODES + 8 + 3 * 12 * BINS,
              "as in verify.rs");

// What follows an exchange: arrays over chunks, then what does not fit shared memory.
//   weights [2][chunks] u64, sums [2][SUMS][chunks] f32, ties [chunks] i32, parts [MAX_NODES + 1][size] Best,
//   slices [size][SLICES][chunks of a block][CHUNK] f32
struct Workspace {
    Exchange* exchange;
    u64* weights;
    float* sums;
    int* ties;
    Best* parts;
    float* slices;
    int chunks;

    static __host__ __device__ constexpr size_t rounded(size_t bytes) { return (bytes + 255) / 256 * 256; }

    // Bytes of a team's; `slices`: whether those of a row lie here.
    static __host__ __device__ constexpr size_t bytes(int chunks, int size, bool slices) {
        return rounded(sizeof(Exchange)) + rounded(16ull * chunks) + rounded(8ull * SUMS * chunks) +
               rounded(4ull * chunks) + rounded(sizeof(Best) * (MAX_NODES + 1) * size) +
               (slices ? rounded(4ull * SLICES * CHUNK * size * ((chunks + size - 1) / size)) : 0);
    }

    __device__ __forceinline__ Workspace(char* at, int chunks, int size) : chunks(chunks) {
        const auto take = [&](size_t bytes) {
            char* const here = at;
            at += rounded(bytes);
            return here;
        };
        exchange = reinterpret_cast<Exchange*>(take(sizeof(Exchange)));
        weights = reinterpret_cast<u64*>(take(16ull * chunks));
        sums = reinterpret_cast<float*>(take(8ull * SUMS * chunks));
        ties = reinterpret_cast<int*>(take(4ull * chunks));
        parts = reinterpret_cast<Best*>(take(sizeof(Best) * (MAX_NODES + 1) * size));
        slices = reinterpret_cast<float*>(at);
    }
};

// Shared memory of a block beside its slices.
struct Shared {
    u64 weight[BINS];
    unsigned count[BINS];
    u64 of_warp[WARPS];
    // the bin in which a cut falls
    struct {
        u64 above_weight, weight;
        unsigned above_count, count;
        int bin, reserved;  // compilers read 16 bytes at a time
    } found;
    float level[2][CHUNK];  // sums of chunk sums, and of those
    float leaves[CHUNK];
    int token;
    float remainder;
    int commit[3];
    Best best[WARPS];
    // of the tree at hand, by row of the parent and by node; -1 where there is none
    int first_child[MAX_NODES + 1], next_sibling[MAX_NODES], node_token[MAX_NODES];
};

// ---- rows ----

struct Row {
    const float* z;
    int width;

    __device__ __forceinline__ float operator[](int token) const { return token < width ? z[token] : -INFINITY; }

    // The logits of ids id .. id + 3, -infinity beyond the row.
    __device__ __forceinline__ float4 four(int id) const {
        if (id + 3 < width && (reinterpret_cast<uintptr_t>(z) & 15) == 0)
            return *reinterpret_cast<const float4*>(z + id);
        return {(*this)[id], (*this)[id + 1], (*this)[id + 2], (*this)[id + 3]};
    }
};

// ---- the best of a row ----

__device__ __forceinline__ Best better_of_warp(Best best) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) best = better(best, from_lane(best, lanes));
    return best;
}

__device__ __forceinline__ bool usable(const Best& best) { return fabsf(best.value) < INFINITY; }

// Past L1: another block may have written it.
__device__ __forceinline__ Best load_best(const Best* at) {
    return of_bits(__ldcg(reinterpret_cast<const float4*>(at)));
}

// ---- a team ----

struct Team {
    int rank, size;
    Workspace space;
    Shared& shared;
    // this block's part of the row at hand, of what it becomes, and of the drafter's row:
    // [chunks of the block][CHUNK]
    float *slice, *next_slice, *drafter_slice;
    // which of the exchange's arrays in turn are next
    int turn, weights_turn, sums_turn;

    __device__ __forceinline__ Team(int rank, int size, Workspace space, Shared& shared, float* dynamic, int slots)
        : rank(rank), size(size), space(space), shared(shared), turn(0), weights_turn(0), sums_turn(0) {
        const int own = (space.chunks + size - 1) / size;
        // blocks of a team find their slices in shared memory, or one after the other
        float* const base = own <= slots ? dynamic : space.slices + static_cast<size_t>(SLICES * rank) * own * CHUNK;
        slice = base;
        next_slice = base + static_cast<size_t>(own) * CHUNK;
        drafter_slice = next_slice + static_cast<size_t>(own) * CHUNK;
    }

    // Waits for the whole team; what was written before is seen by all after.
    __device__ __forceinline__ void sync() const {
        __syncthreads();
        if (size == 1) return;
        if (threadIdx.x == 0) {
            Exchange* const x = space.exchange;
            const unsigned seen = load_acquire(&x->generation);
            __threadfence();
            if (atomicInc(&x->arrived, size - 1) == static_cast<unsigned>(size - 1)) {
                __threadfence();
                atomicAdd(&x->generation, 1u);
            } else {
                while (load_acquire(&x->generation) == seen) {
                }
            }
            __threadfence();
        }
        __syncthreads();
    }

    // Clears what blocks add up. Ends with a barrier of the team somewhere behind it.
    __device__ __forceinline__ void clear() const {
        if (rank != 0) return;
        for (int i = threadIdx.x; i < 3 * BINS; i += THREADS) {
            space.exchange->bins[i / BINS].weight[i % BINS] = 0;
            space.exchange->bins[i / BINS].count[i % BINS] = 0;
        }
    }

    __device__ __forceinline__ Bins& bins() const { return space.exchange->bins[turn]; }

    // Waits until all have added to `bins`, which are good to be read until the turn after the next.
    __device__ __forceinline__ const Bins& added() {
        Bins& next = space.exchange->bins[turn == 2 ? 0 : turn + 1];
        if (rank == 0)
            for (int i = threadIdx.x; i < BINS; i += THREADS) next.weight[i] = 0, next.count[i] = 0;
        sync();
        const Bins& done = bins();
        turn = turn == 2 ? 0 : turn + 1;
        return done;
    }

    // Calls f(chunk, place of the chunk in a slice) for this warp's among `chunks`.
    template <typename F>
    __device__ __forceinline__ void each_of(int chunks, F f) const {
        for (int own = threadIdx.x / 32, c = own * size + rank; c < chunks; own += WARPS, c += WARPS * size)
            f(c, own * CHUNK);
    }
    template <typename F>
    __device__ __forceinline__ void each_chunk(F f) const {
        each_of(space.chunks, f);
    }

    __device__ __forceinline__ bool owns(int chunk) const { return chunk % size == rank && chunk / size % WARPS == threadIdx.x / 32; }

    static __device__ __forceinline__ int first_id(int chunk) { return chunk * CHUNK + threadIdx.x % 32 * 4; }

    __device__ __forceinline__ float4& four(float* slice, int place) const {
        return *reinterpret_cast<float4*>(slice + place + threadIdx.x % 32 * 4);
    }

    // ---- the best of a row ----

    // Leaves this block's best of a row among the workspace's parts of row `index`.
    __device__ __forceinline__ void leave_part(const Row& z, int index) const {
        Best best = NO_BEST;
        each_of((z.width + CHUNK - 1) / CHUNK, [&](int chunk, int) {
            const int id = first_id(chunk);
            const float4 four = z.four(id);
            const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (id + i < z.width) best = better(best, single(values[i], id + i));
        });
        best = better_of_block(better_of_warp(best));
        if (threadIdx.x == 0) space.parts[index * size + rank] = best;
    }

    // The best of all warps', for all threads.
    __device__ __forceinline__ Best better_of_block(const Best& of_warp) const {
        __syncthreads();
        if (threadIdx.x % 32 == 0) shared.best[threadIdx.x / 32] = of_warp;
        __syncthreads();
        Best best = shared.best[0];
        for (int w = 1; w < WARPS; w++) best = better(best, shared.best[w]);
        return best;
    }

    // The best of parts, of which this warp reads every `step`th 32 from the `first`th on.
    static __device__ __forceinline__ Best best_of_parts(const Best* parts, int count, int first = 0, int step = 1) {
        Best best = NO_BEST;
        for (int i = first * 32 + threadIdx.x % 32; i < count; i += step * 32)
            best = better(best, load_best(parts + i));
        return better_of_warp(best);
    }

    // ---- sums of floats, in the order that math.rs states ----

    // The sum of a chunk, in all lanes.
    static __device__ __forceinline__ float chunk_sum(const float4& x) {
        float sum = ((x.x + x.y) + x.z) + x.w;
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) sum = sum + __shfl_xor_sync(~0u, sum, lanes);
        return sum;
    }

    // Where a sweep leaves its chunk sums.
    __device__ __forceinline__ float* sums(int which) const {
        return space.sums + static_cast<size_t>(sums_turn * SUMS + which) * space.chunks;
    }

    // Leaves the sum of a chunk for `total`.
    __device__ __forceinline__ void leave_sum(int which, int chunk, const float4& terms) const {
        const float sum = chunk_sum(terms);
        if (threadIdx.x % 32 == 0) sums(which)[chunk] = sum;
    }

    // Sums of each CHUNK of `count` values in memory of the block or the device, to `to`.
    __device__ __forceinline__ void level_up(const float* from, bool far, int count, float* to) const {
        const auto at = [&](int i) { return i >= count ? 0.0f : far ? __ldcg(from + i) : from[i]; };
        for (int c = threadIdx.x / 32; c * CHUNK < count; c += WARPS) {
            const int i = first_id(c);
            const float sum = chunk_sum({at(i), at(i + 1), at(i + 2), at(i + 3)});
            if (threadIdx.x % 32 == 0) to[c] = sum;
        }
        __syncthreads();
    }

    // The total of what the sweep before the last barrier left; its levels stay in `shared.level`.
    __device__ __forceinline__ float total(const float* sums) const {
        __syncthreads();
        int count = space.chunks;
        if (count == 1) return __ldcg(sums);
        level_up(sums, true, count, shared.level[0]);
        count = (count + CHUNK - 1) / CHUNK;
        if (count == 1) return shared.level[0][0];
        level_up(shared.level[0], false, count, shared.level[1]);
        return shared.level[1][0];
    }

    // The sums at hand give way to the next sweep's.
    __device__ __forceinline__ void next_sums() { sums_turn ^= 1; }
    // Those that gave way last.
    __device__ __forceinline__ float* last_sums(int which) const {
        return space.sums + static_cast<size_t>((sums_turn ^ 1) * SUMS + which) * space.chunks;
    }

    // ---- sums of integers over a block ----

    static __device__ __forceinline__ u64 sum_of_warp(u64 x) {
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
        return x;
    }

    // The sum up to and including each thread's.
    __device__ __forceinline__ u64 scan(u64 x) const {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
        for (int lanes = 1; lanes < 32; lanes *= 2) {
            const u64 below = __shfl_up_sync(~0u, x, lanes);
            if (lane >= lanes) x += below;
        }
        __syncthreads();
        if (lane == 31) shared.of_warp[warp] = x;
        __syncthreads();
        for (int w = 0; w < warp; w++) x += shared.of_warp[w];
        return x;
    }

    // ---- laws ----

    // The sampling law of a row whose best logit is known; the slice then holds this block's part of the
    // row (not where the law is greedy). Its weights by chunk are left for `draw` unless it is cut, see
    // `leave_weights`.
    // Bytes: the row once, from memory to the slice.
    __device__ __forceinline__ Law law(const Row& row, const Best& best, const Sampling& s) {
        if (s.temperature == 0.0f) return one_hot(best.token);
        Law law = {0, best.value, s.temperature, 0, INT_MAX, -1, 0};
        const bool by_count = s.top_k > 0 && s.top_k < row.width, by_weight = s.top_p < 1.0f;
        each_chunk([&](int chunk, int place) { four(slice, place) = row.four(first_id(chunk)); });
        law.total = leave_weights(law);
#pragma unroll 1
        for (int weights = 0; weights < 2; weights++) {
            if (weights ? by_weight : by_count)
                cut(row, law, !weights, weights ? least_weight(s.top_p, law.total) : s.top_k);
        }
        return law;
    }

    // A law's weights by chunk, for `draw`; their sum. The slice holds the row.
    __device__ __forceinline__ u64 leave_weights(const Law& law) {
        weights_turn ^= 1;
        u64* const to = space.weights + static_cast<size_t>(weights_turn) * space.chunks;
        u64 sum = 0;
        each_chunk([&](int chunk, int place) {
            const float4 z = four(slice, place);
            const int id = first_id(chunk);
            u64 w = integer(weight(law, id, z.x)) + integer(weight(law, id + 1, z.y)) +
                                   integer(weight(law, id + 2, z.z)) + integer(weight(law, id + 3, z.w));
            w = sum_of_warp(w);
            if (threadIdx.x % 32 == 0) to[chunk] = w;
            sum += w;
        });
        if (threadIdx.x % 32 == 0) shared.of_warp[threadIdx.x / 32] = sum;
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int w = 1; w < WARPS; w++) sum += shared.of_warp[w];
            atomicAdd(&bins().weight[0], sum);
        }
        return __ldcg(&added().weight[0]);
    }

    // Cuts a law to the shortest prefix, in order of preference, of at least `need` tokens or, not
    // `by_count`, of at least `need` weight; the higher logit is preferred, then the lower id. The slice
    // holds the row. Four barriers, and two more where tokens of one logit are divided.
    __device__ __forceinline__ void cut(const Row& row, Law& law, bool by_count, u64 need) {
        uint32_t prefix = 0;
        u64 above_weight = 0;
        unsigned above_count = 0;
        for (int shift = 24; shift >= 0; shift -= 8) {
            __syncthreads();
            shared.weight[threadIdx.x] = 0;
            shared.count[threadIdx.x] = 0;
            __syncthreads();
            each_chunk([&](int chunk, int place) {
                const float4 z = four(slice, place);
                const float values[4] = {z.x, z.y, z.z, z.w};
                const int id = first_id(chunk);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const uint32_t key = order_key(values[i]);
                    const bool kept = key > law.key || (key == law.key && id + i <= law.id);
                    if (!kept || id + i >= row.width || (shift < 24 && key >> (shift + 8) != prefix)) continue;
                    const int bin = key >> shift & 255;
                    atomicAdd(&shared.count[bin], 1u);
                    const u64 w = integer(weight(law, id + i, values[i]));
                    if (w > 0) atomicAdd(&shared.weight[bin], w);
                }
            });
            __syncthreads();
            if (shared.count[threadIdx.x] > 0) {
                atomicAdd(&bins().count[threadIdx.x], shared.count[threadIdx.x]);
                if (shared.weight[threadIdx.x] > 0) atomicAdd(&bins().weight[threadIdx.x], shared.weight[threadIdx.x]);
            }
            const Bins& all = added();
            // from the highest bin down
            const int bin = BINS - 1 - threadIdx.x;
            const u64 w = __ldcg(&all.weight[bin]);
            const unsigned n = __ldcg(&all.count[bin]);
            const u64 weights = above_weight + scan(w);
            const u64 counts = above_count + scan(n);
            const u64 reached = by_count ? counts : weights, own = by_count ? n : w;
            if (reached >= need && reached - own < need)
                shared.found = {weights - w, w, static_cast<unsigned>(counts) - n, n, bin, 0};
            __syncthreads();
            above_weight = shared.found.above_weight, above_count = shared.found.above_count;
            prefix = prefix << 8 | static_cast<uint32_t>(shared.found.bin);
        }
        // tokens of this one logit have one weight
        const unsigned ties = shared.found.count;
        const u64 each = shared.found.weight / ties;
        const unsigned taken = by_count ? static_cast<unsigned>(need) - above_count
                                        : static_cast<unsigned>((need - above_weight + each - 1) / each);
        const int last = taken < ties ? tie(row, law, prefix, taken) : prefix == law.key ? law.id : INT_MAX;
        law.total = above_weight + each * taken;
        law.key = prefix;
        law.id = last;
    }

    // The id of the `nth` of a law's tokens (from 1) whose logit has this key.
    __device__ __forceinline__ int tie(const Row& row, const Law& law, uint32_t key, unsigned nth) {
        const auto among = [&](int id, float z) {
            return id < row.width && order_key(z) == key && (key > law.key || id <= law.id);
        };
        each_chunk([&](int chunk, int place) {
            const float4 z = four(slice, place);
            const int id = first_id(chunk);
            const int here = among(id, z.x) + among(id + 1, z.y) + among(id + 2, z.z) + among(id + 3, z.w);
            const int all = __reduce_add_sync(~0u, here);
            if (threadIdx.x % 32 == 0) space.ties[chunk] = all;
        });
        sync();
        // the chunk, then the place in it
        const int chunk = find(space.chunks, nth - 1, [&](int c) { return static_cast<u64>(__ldcg(space.ties + c)); });
        const int found = find_leaf(chunk, [&](int id) { return static_cast<u64>(among(id, row[id])); });
        sync();  // `ties` is free again
        return found;
    }

    // ---- draws ----

    // The first of `count` numbers whose running sum exceeds `target`; -1 where none does. What is
    // left of the target there is shared.found.above_weight.
    template <typename F>
    __device__ __forceinline__ int find(int count, u64 target, F number) const {
        u64 before = 0;
        __syncthreads();
        if (threadIdx.x == 0) shared.found.bin = -1;
        __syncthreads();
        for (int first = 0; first < count; first += THREADS) {
            const int i = first + threadIdx.x;
            const u64 own = i < count ? number(i) : 0;
            const u64 sum = before + scan(own);
            if (sum > target && sum - own <= target) {
                shared.found.bin = i;
                shared.found.above_weight = target - (sum - own);
            }
            if (threadIdx.x == THREADS - 1) shared.found.weight = sum;
            __syncthreads();
            before = shared.found.weight;
            if (shared.found.bin >= 0) break;
        }
        return shared.found.bin;
    }

    // The id of a chunk at which `find` points with what it left of its target.
    template <typename F>
    __device__ __forceinline__ int find_leaf(int chunk, F number) const {
        const u64 target = shared.found.above_weight;
        if (chunk < 0) return -1;
        const int place = find(CHUNK, target, [&](int i) { return static_cast<u64>(number(chunk * CHUNK + i)); });
        return place < 0 ? -1 : chunk * CHUNK + place;
    }

    // The token at which a random word points: the first, ascending, whose running sum of weights
    // exceeds word * total / 2^64. `leave_weights` was called for the law. `gone(i)` are the tokens
    // that are taken out, i < removed, each once, and `total` is what is left; -1 where nothing is. For
    // one block: nothing here waits for the team.
    template <typename Gone>
    __device__ __forceinline__ int draw(const Row& row, const Law& law, u64 total, int removed, Gone gone, u64 word) const {
        if (total == 0) return -1;
        if (law.only >= 0) return law.only;
        const u64 target = __umul64hi(word, total);
        const u64* const of_chunks = space.weights + static_cast<size_t>(weights_turn) * space.chunks;
        const auto left = [&](int id) {
            for (int i = 0; i < removed; i++)
                if (gone(i) == id) return u64{0};
            return integer(id < row.width ? weight(law, id, row[id]) : 0.0f);
        };
        const int chunk = find(space.chunks, target, [&](int c) {
            u64 w = __ldcg(of_chunks + c);
            for (int i = 0; i < removed; i++)
                if (gone(i) >= 0 && gone(i) / CHUNK == c) w -= integer(weight(law, gone(i), row[gone(i)]));
            return w;
        });
        return find_leaf(chunk, left);
    }

    // One level of a draw from floats: walks `count` values, the first above what is left of r is
    // entered, every other one subtracted; where rounding leaves none, the last positive one.
    static __device__ __forceinline__ int descend(float& r, const float* values, int count) {
        int last = -1;
        for (int i = 0; i < count; i++) {
            const float value = values[i];
            if (r < value) return i;
            r = r - value;
            if (value > 0.0f) last = i;
        }
        return last;
    }

    // The token at which a random word points among the float weights of the slice, whose chunk
    // sums are `sums` and were just totalled; -1 where nothing is positive. One barrier.
    __device__ __forceinline__ int draw_residual(const float* sums, float total, u64 word) {
        if (threadIdx.x == 0) shared.remainder = uniform(word) * total;
        int at = 0;
        // level 1: sums of 128 chunks; level 0: chunks
        for (int level = 1; level >= 0 && at >= 0; level--) {
            const int sums_here = level == 0 ? space.chunks : (space.chunks + CHUNK - 1) / CHUNK;
            if (sums_here == 1) continue;
            const int first = at * CHUNK, count = min(CHUNK, sums_here - first);
            __syncthreads();
            if (level == 0 && threadIdx.x < count) shared.leaves[threadIdx.x] = __ldcg(sums + first + threadIdx.x);
            __syncthreads();
            if (threadIdx.x == 0) {
                float r = shared.remainder;
                const int found = descend(r, level == 0 ? shared.leaves : shared.level[0] + first, count);
                shared.remainder = r;
                shared.token = found < 0 ? -1 : first + found;
            }
            __syncthreads();
            at = shared.token;
        }
        __syncthreads();
        const bool mine = at >= 0 && at % size == rank;
        if (mine && threadIdx.x == 0) {
            float r = shared.remainder;
            const int found = descend(r, slice + at / size * CHUNK, CHUNK);
            space.exchange->token = found < 0 ? -1 : at * CHUNK + found;
        }
        sync();
        return at < 0 ? -1 : __ldcg(&space.exchange->token);
    }
};
