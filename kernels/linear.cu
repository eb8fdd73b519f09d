// y = W x for all rows of a pass in one sweep over W, and what comes right after it.
//
// W [N, K] lies in fragment tiles, x in B order (layout.cuh). Rows of the pass are the n dimension
// of mma.m16n8k16, so weights go from memory straight to registers, 16 bytes a lane, each once.
//
// Work and exactness. A row block is RB row tiles; a unit is one row block times one pair of
// k-tiles. The row_blocks * pairs units, in that order, are cut evenly over the W blocks of the
// grid: block w has units [w U / W, (w + 1) U / W), so every multiprocessor has work in every
// matrix, and no block has more than one unit more than another. Where blocks share a row block,
// each leaves partial sums, and the last to arrive adds the others' to its own in ascending order of k.
// Within a block WK warps share the pairs of a row tile in turn and are added in order. RB, WK and
// W are fixed per matrix and device model, for every number of rows: a row's bits do not depend on
// its company. What varies with the number of rows is NG, the groups of 8 rows that fit.
//
// Grid: W blocks of WM * WK warps; warp (wm, wk) has row tile wm of the block. Where WM < RB
// (prefill) a block goes over each segment RB / WM times, WM row tiles at a time.
//
// Bytes: the packed matrix once; per block 2 * rows * the K range it works on (x, by cp.async into
// a ring of three stages); partials, 64 * rows per row tile and shared segment, written, and
// read but by the last to arrive; and what the epilogue names.
//
// Neighbours: x and the sums of squares were written by launches before; partials and counters
// belong to this launch, counters are zero before and after. Where the pass has no row that takes
// part, nothing is read but the weights that each block starts with.
#include "best.cuh"
#include "ptx.cuh"

namespace {

// A number as a type: a constant wherever it goes.
template <int I>
struct Number {
    __device__ constexpr operator int() const { return I; }
};

// f(Number<FROM>()) to f(Number<TO - 1>())
template <int FROM, int TO, typename F>
__device__ __forceinline__ void unrolled(F f) {
    if constexpr (FROM < TO) {
        f(Number<FROM>());
        unrolled<FROM + 1, TO>(f);
    }
}

// How much of a chunk of pairs a segment has.
enum Part { ALL, SOME, NONE };

// What the k loop of (NG groups, WK warps along k) works in.
template <int NG, int WK>
struct Loop {
    // groups of one stage, and how many times that is all groups
    static constexpr int STAGE_GROUPS = linear_stage_groups(NG);
    static constexpr int GROUP_BLOCKS = NG / STAGE_GROUPS;
    // pairs that a warp has in registers at a time: the loads in flight
    static constexpr int AHEAD = linear_ahead(NG, WK);
    static constexpr int CHUNK = AHEAD * WK;
    // chunks and pairs of a stage
    static constexpr int CHUNKS = linear_chunks(NG, WK);
    static constexpr int PAIRS = CHUNKS * CHUNK;
    static constexpr int STAGE_BYTES = linear_stage_bytes(NG, WK);
};

// A part of one row block's units: pairs [first, last) of row block `block`.
struct Segment {
    int block, first, last;
};

// The cut of the work: worker w has the units [start(w), start(w + 1)). All of it from parameters,
// so that registers hold none of it.
struct Work {
    const Linear& p;

    // floor(worker * units / workers) without wide products: the host sees to workers^2 < 2^31
    __device__ int start(int worker) const {
        return worker * p.worker_units + worker * p.more_units / static_cast<int>(gridDim.x);
    }
    // This worker's part of row block `block`, which begins at pair `first`; empty behind its end.
    __device__ Segment segment(int block, int first) const {
        return {block, first, min(p.pairs, start(blockIdx.x + 1) - block * p.pairs)};
    }
    __device__ Segment first_segment() const {
        const int unit = start(blockIdx.x), block = unit / p.pairs;
        return segment(block, unit - block * p.pairs);
    }
    // The first and the last of the workers that share a row block with this one. Each has at most
    // worker_units + 1 of the units between: so many workers away at least, and few more.
    __device__ int first_sharer(int block) const {
        const int first = block * p.pairs;
        int worker = blockIdx.x;
        worker -= max(start(worker) - first, 0) / (p.worker_units + 1);
        while (start(worker) > first) worker--;
        return worker;
    }
    __device__ int last_sharer(int block) const {
        const int end = (block + 1) * p.pairs;
        int worker = blockIdx.x;
        worker += max(end - start(worker + 1), 0) / (p.worker_units + 1);
        while (start(worker + 1) < end) worker++;
        return worker;
    }
};

// Where a fragment of the product belongs: row tile, group of rows; and the first of the lane's
// two columns among those of a block of eight groups.
struct Place {
    int tile, group, lane, column;
    __device__ int g() const { return lane / 4; }
    __device__ int t() const { return lane % 4; }
    // row of the pass of column 2 t + i
    __device__ int row(int i) const { return group * GROUP + 2 * t() + i; }
};

// Columns of a block of eight groups.
constexpr int COLUMNS = 8 * GROUP;

// The sum over the 16 features of a tile, for one of the lane's rows.
__device__ float sum_of_tile(float x) {
    x += __shfl_xor_sync(~0u, x, 4);
    x += __shfl_xor_sync(~0u, x, 8);
    return x + __shfl_xor_sync(~0u, x, 16);
}

// Numbers of row tiles, (tile of the block, column) in shared memory, summed over the tiles
// [first, first + count) in order.
__device__ float sum_over_tiles(const float* of_tiles, int first, int count, int column) {
    float sum = 0.0f;
    for (int i = 0; i < count; i++) sum += of_tiles[(first + i) * COLUMNS + column];
    return sum;
}

__device__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

__device__ void add(float4& sum, const float4& next) {
    sum.x += next.x, sum.y += next.y, sum.z += next.z, sum.w += next.w;
}

// Calls f(part, first tile of the block, tiles, column, row) for the parts of `part_tiles` row tiles.
template <typename F>
__device__ void each_part(const Linear& p, int first_tile, int tiles, int group, int rows, F f) {
    for (int i = threadIdx.x; i < tiles / p.part_tiles * COLUMNS; i += blockDim.x) {
        const int part = i / COLUMNS, column = i % COLUMNS, row = group * GROUP + column;
        const int first = part * p.part_tiles;
        // the last part may be cut short by the end of the matrix
        const int count = min(p.part_tiles, p.row_tiles - first_tile - first);
        if (row < rows && count > 0) f(first_tile / p.part_tiles + part, first, count, column, row);
    }
}

// x += y; f16(x * gain) in B order for the next product; sums of squares of x, and of judge * x.
// Bytes: x read and written, 2 a value for the next product.
struct Residual {
    static constexpr bool KEEPS = false;

    static __device__ void fragment(const Linear& p, const Place& at, int tile_of_block, int tiles, int rows,
                                    const float*, float* of_tiles, float (&c)[4]) {
        const int f = at.tile * 16 + at.g();
        float squares[2], dots[2];
        float bias[2] = {0.0f, 0.0f};
        if (p.bias) bias[0] = p.bias[f], bias[1] = p.bias[f + 8];
        const float gain[2] = {p.gain[f], p.gain[f + 8]};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float* x = p.x + static_cast<size_t>(at.row(i)) * p.width + f;
            const bool present = at.row(i) < rows;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float& v = c[2 * half + i];
                v = present ? x[8 * half] + (v * p.input_scale + bias[half]) : 0.0f;
                if (present) x[8 * half] = v;
            }
            squares[i] = sum_of_tile(c[i] * c[i] + c[2 + i] * c[2 + i]);
            if (p.judge) dots[i] = sum_of_tile(c[i] * p.judge[f] + c[2 + i] * p.judge[f + 8]);
        }
        uint2 y;
        y.x = transpose(pack_f16(c[0] * gain[0], c[1] * gain[0]));
        y.y = transpose(pack_f16(c[2] * gain[1], c[3] * gain[1]));
        const size_t to = (activation_at(p.out_pairs, at.group, at.tile / 2) + at.lane) * 2 + at.tile % 2;
        reinterpret_cast<uint2*>(p.out)[to] = y;
        if (at.g() != 0) return;
        float* mine = of_tiles + tile_of_block * COLUMNS + at.column;
        mine[0] = squares[0], mine[1] = squares[1];
        if (!p.judge) return;
        mine += tiles * COLUMNS;
        mine[0] = dots[0], mine[1] = dots[1];
    }

    static __device__ void block(const Linear& p, int first_tile, int tiles, int group, int rows,
                                 const float* of_tiles) {
        each_part(p, first_tile, tiles, group, rows, [&](int part, int first, int count, int column, int row) {
            p.squares[part * MAX_ROWS + row] = sum_over_tiles(of_tiles, first, count, column);
            if (p.judge)
                p.dots[part * MAX_ROWS + row] = sum_over_tiles(of_tiles + tiles * COLUMNS, first, count, column);
        });
    }
};

// silu(gate) * up * out_scale, in f16 and B order for the next product. Bytes: 2 a value.
struct SwiGlu {
    static constexpr bool KEEPS = false;

    static __device__ void fragment(const Linear& p, const Place& at, int, int, int, const float* scales, float*,
                                    float (&c)[4]) {
        float bias[2] = {0.0f, 0.0f};
        if (p.bias) bias[0] = p.bias[at.tile * 16 + at.g()], bias[1] = p.bias[at.tile * 16 + at.g() + 8];
        float y[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float scale = scales[at.column + i];
            y[i] = silu(c[i] * scale + bias[0]) * (c[2 + i] * scale + bias[1]) * p.out_scale;
        }
        // eight features: half a k-tile
        const size_t to = (activation_at(p.out_pairs, at.group, at.tile / 4) + at.lane) * 4 + at.tile % 4;
        reinterpret_cast<uint32_t*>(p.out)[to] = transpose(pack_f16(y[0], y[1]));
    }

    static __device__ void block(const Linear&, int, int, int, int, const float*) {}
};

// Bias, QK-norm, rotation; q for attention, k and v into the cache.
// Bytes: 2 a value of q, k and v; 4 * head_dim of the table of angles a row.
struct Qkv {
    // between `fragment` and `finish` the squares of a head's tiles come together
    static constexpr bool KEEPS = true;

    static __device__ void fragment(const Linear& p, const Place& at, int tile_of_block, int, int,
                                    const float* scales, float* of_tiles, float (&c)[4]) {
        float bias[2] = {0.0f, 0.0f};
        if (p.bias) bias[0] = p.bias[at.tile * 16 + at.g()], bias[1] = p.bias[at.tile * 16 + at.g() + 8];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            c[i] = c[i] * scales[at.column + i] + bias[0];
            c[2 + i] = c[2 + i] * scales[at.column + i] + bias[1];
            if (!p.q_gain) continue;
            const float squares = sum_of_tile(c[i] * c[i] + c[2 + i] * c[2 + i]);
            if (at.g() == 0) of_tiles[tile_of_block * COLUMNS + at.column + i] = squares;
        }
    }

    static __device__ void finish(const Linear& p, const Place& at, int tile_of_block, int rows,
                                  const float* of_tiles, float (&c)[4]) {
        const int dim = p.head_dim, half = dim / 2, tiles = dim / 16;
        const int head = at.tile / tiles, i0 = at.tile % tiles * 8;
        const int feature = i0 + at.g();
        const bool is_q = head < p.heads, is_v = head >= p.heads + p.kv_heads;
        const int kv_head = is_q ? head / p.group : (head - p.heads) % p.kv_heads;
        const int base = p.rows->base;
        if (is_v) {
            char* const values = p.values + kv_head * p.head_bytes;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (at.row(i) >= rows) continue;
                for (int h = 0; h < 2; h++) {
                    // finite, whatever the row is: who does not see it meets it with a weight of zero
                    const float v = fminf(fmaxf(c[2 * h + i], -MOST_F16), MOST_F16);
                    *reinterpret_cast<uint16_t*>(values + value_at(dim, base + at.row(i), feature + h * half)) =
                        static_cast<uint16_t>(pack_f16(v, 0.0f));
                }
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (at.row(i) >= rows) continue;
            float a = c[i], b = c[2 + i];
            if (p.q_gain) {
                const float squares = sum_over_tiles(of_tiles, tile_of_block / tiles * tiles, tiles, at.column + i);
                const float scale = __frsqrt_rn(squares / dim + p.eps);
                const float* gain = is_q ? p.q_gain : p.k_gain;
                a *= scale * gain[feature];
                b *= scale * gain[feature + half];
            }
            const float2 angle = p.angles[static_cast<size_t>(p.rows->position[at.row(i)]) * half + feature];
            c[i] = a * angle.x - b * angle.y;
            c[2 + i] = b * angle.x + a * angle.y;
        }
        // now the lane has row g's features 2 t, 2 t + 1 of the tile
        const uint32_t low = transpose(pack_f16(c[0], c[1]));
        const uint32_t high = transpose(pack_f16(c[2], c[3]));
        const int row = at.group * GROUP + at.g(), f = i0 + 2 * at.t();
        if (row >= rows) return;
        if (is_q) {
            const size_t q_row = (static_cast<size_t>(kv_head) * MAX_ROWS + row) * p.group + head % p.group;
            char* const q = p.q + (q_row * dim + f) * 2;
            *reinterpret_cast<uint32_t*>(q) = low;
            *reinterpret_cast<uint32_t*>(q + half * 2) = high;
        } else {
            char* const keys = p.keys + kv_head * p.head_bytes;
            *reinterpret_cast<uint32_t*>(keys + key_at(dim, base + row, f)) = low;
            *reinterpret_cast<uint32_t*>(keys + key_at(dim, base + row, f + half)) = high;
        }
    }
};

// Logits, and of each part's row tiles the best and the second. Bytes: 4 a logit, 16 a part and row.
struct Logits {
    static constexpr bool KEEPS = false;

    // row of the logits of row 0 of the pass
    static __device__ int first(const Linear& p) { return p.rows->logits_at - p.first_row; }

    // 16 bytes at a time
    static __device__ Best load(const Best* from) { return of_bits(*reinterpret_cast<const float4*>(from)); }
    static __device__ void store(Best* to, const Best& best) {
        *reinterpret_cast<float4*>(to) = make_float4(best.value, __int_as_float(best.token), best.second,
                                                     __int_as_float(best.second_token));
    }

    static __device__ void fragment(const Linear& p, const Place& at, int tile_of_block, int tiles, int rows,
                                    const float* scales, float* of_tiles, float (&c)[4]) {
        const int f = at.tile * 16 + at.g(), first_to = first(p);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = at.row(i), to = row + first_to;
            Best best[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int token = f + 8 * h;
                const float z = c[2 * h + i] * scales[at.column + i];
                const bool present = token < p.vocabulary;
                best[h] = present ? single(z, token) : NO_BEST;
                if (present && row < rows && to >= 0)
                    p.logits[static_cast<size_t>(to) * p.logits_stride + token] = z;
            }
            Best all = better(best[0], best[1]);
            all = better(all, from_lane(all, 4));
            all = better(all, from_lane(all, 8));
            all = better(all, from_lane(all, 16));
            if (at.g() == 0) store(reinterpret_cast<Best*>(of_tiles) + tile_of_block * COLUMNS + at.column + i, all);
        }
    }

    static __device__ void block(const Linear& p, int first_tile, int tiles, int group, int rows,
                                 const float* of_tiles) {
        const Best* const best = reinterpret_cast<const Best*>(of_tiles);
        const int parts = (p.row_tiles + p.part_tiles - 1) / p.part_tiles, first_to = first(p);
        each_part(p, first_tile, tiles, group, rows, [&](int part, int first, int count, int column, int row) {
            const int to = row + first_to;
            if (to < 0) return;
            Best all = load(best + first * COLUMNS + column);
            for (int k = 1; k < count; k++) all = better(all, load(best + (first + k) * COLUMNS + column));
            store(p.best + static_cast<size_t>(to) * parts + part, all);
        });
    }
};

template <int NG, int WK>
struct Kernel {
    using L = Loop<NG, WK>;

    const Linear& p;
    const Work work;
    char* const shared;
    const int lane, wm, wk, warps_m;
    int groups;
    // the weights that are under way, and where the first of them lie
    uint4 w[2 * L::AHEAD];
    const uint4* from;
    float acc[NG][4];

    __device__ Kernel(const Linear& p, char* shared)
        : p(p), work{p}, shared(shared), lane(threadIdx.x % 32), wm(threadIdx.x / 32 / WK),
          wk(threadIdx.x / 32 % WK), warps_m(blockDim.x / 32 / WK) {}

    // Behind what stages and staged sums share: a scale for every row, then numbers of row tiles.
    __device__ float* scales() const {
        return reinterpret_cast<float*>(shared + linear_loop_bytes(NG, WK, warps_m));
    }
    __device__ float* of_tiles() const { return scales() + NG * GROUP; }

    // How many times a block goes over a segment: once but in prefill.
    __device__ int subs() const { return NG > 8 ? p.block_tiles / warps_m : 1; }

    // ---- products ----

    // Requests weights j of a chunk that begins at `from`.
    template <int J>
    __device__ __forceinline__ void load(const uint4* from) {
        w[2 * J] = load_streaming<J * WK * 1024>(from);
        w[2 * J + 1] = load_streaming<J * WK * 1024 + 512>(from);
    }

    // Requests a segment's first chunk of weights.
    __device__ void load(const Segment& s, int tile) {
        if (tile >= p.row_tiles || s.first >= s.last) return;
        const int first = s.first + wk;
        // two tiles a pair; no matrix has 2^31 places of 16 bytes
        from = p.weights + ((tile * p.pairs + first) * 64 + lane);
        unrolled<0, L::AHEAD>([&](auto j) {
            if (first + j * WK < s.last) load<j>(from);
        });
    }

    // Requests some pairs of up to eight groups from `group` on for a stage. `from`: where group 0's
    // first pair lies; `left`: places of 16 bytes, 32 a pair, that a group has from there to the end of
    // the segment; both for this thread, who does not count the places of those before it.
    __device__ __forceinline__ void copy(const uint4* from, int left, int group, uint32_t stage) {
        constexpr int PLACES = L::PAIRS * 32;
        stage += threadIdx.x * 16;
        from += activation_at(p.pairs, group, 0);
#pragma unroll 1
        for (int g = 0; g < L::STAGE_GROUPS && (NG == 1 || group + g < groups); g++) {
            if constexpr (WK > 1) {
                // one row tile a block: so many threads
                constexpr int THREADS = WK * 32;
                unrolled<0, PLACES / THREADS>([&](auto i) { copy_async_of<i * THREADS>(left, stage, from); });
            } else {
                const char* row = reinterpret_cast<const char*>(from);
                const unsigned step = blockDim.x * 16;
                uint32_t to = stage;
#pragma unroll 1
                for (int more = min(PLACES - static_cast<int>(threadIdx.x), left); more > 0; more -= blockDim.x) {
                    copy_async(to, row);
                    to += step, row += step;
                }
            }
            stage += PLACES * 16;
            from += activation_at(p.pairs, 1, 0);
        }
        copy_async_commit();
    }

    // Products of the chunk in registers with one stage's groups; reloads the registers with the chunk
    // after it. `left`: pairs from the chunk's first on. How much there is: of the chunk itself, all or
    // some; of the one after it, all, some or none.
    template <Part OWN, Part NEXT>
    __device__ __forceinline__ void chunk(const uint4* next, uint32_t stage, int group, int left) {
        unrolled<0, L::AHEAD>([&](auto j) {
            if (OWN == ALL || wk + j * WK < left) {
                unrolled<0, L::STAGE_GROUPS>([&](auto g) {
                    if (NG > 1 && group + g >= groups) return;
                    const uint4 b = load_shared<(g * L::PAIRS + j * WK) * PAIR_BYTES>(stage);
                    mma(acc[group + g], w[2 * j], b.x, b.y);
                    mma(acc[group + g], w[2 * j + 1], b.z, b.w);
                });
            }
            if (NEXT == ALL || (NEXT == SOME && wk + L::CHUNK + j * WK < left)) load<j>(next);
        });
    }

    // The chunks of one stage; `left`: pairs of the segment from its first on. But for a segment's last
    // two, a chunk and the one after it are there in full.
    template <bool RELOAD>
    __device__ __forceinline__ void chunks(const uint4* next, uint32_t stage, int group, int left) {
        if constexpr (L::CHUNKS == 1) {
            if (left >= 2 * L::CHUNK) return chunk<ALL, RELOAD ? ALL : NONE>(next, stage, group, left);
            if (left > L::CHUNK) return chunk<ALL, RELOAD ? SOME : NONE>(next, stage, group, left);
            return chunk<SOME, NONE>(next, stage, group, left);
        }
        constexpr int BYTES = L::CHUNK * PAIR_BYTES;
        const int full = min(max(static_cast<int>(static_cast<unsigned>(left) / L::CHUNK) - 1, 0), L::CHUNKS);
        const uint32_t full_end = stage + full * BYTES, end = stage + L::STAGE_BYTES / L::STAGE_GROUPS;
        left -= full * L::CHUNK;
#pragma unroll 1
        for (; stage != full_end; stage += BYTES, next += L::CHUNK * 64)
            chunk<ALL, RELOAD ? ALL : NONE>(next, stage, group, left);
        if (stage != end && left > L::CHUNK) {
            chunk<ALL, RELOAD ? SOME : NONE>(next, stage, group, left);
            stage += BYTES;
            left -= L::CHUNK;
        }
        if (stage != end && left <= L::CHUNK) chunk<SOME, NONE>(next, stage, group, left);
    }

    // acc = the segment's part of the product; w holds its first chunk.
    __device__ void products(const Segment& s, int tile) {
#pragma unroll
        for (int g = 0; g < NG; g++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[g][i] = 0.0f;
        const bool active = tile < p.row_tiles;
        // the chunk after the one in registers
        const uint4* next = from + L::CHUNK * 64;
        // the stages in turn, as shared memory's addresses
        const uint32_t ring = shared_address(shared), ring_end = ring + STAGES * L::STAGE_BYTES;
        auto after = [&](uint32_t stage) {
            stage += L::STAGE_BYTES;
            return stage == ring_end ? ring : stage;
        };
        uint32_t read = ring, written = ring;
        // the activations that are asked for next, two steps ahead of the products
        const uint4* from = p.input + static_cast<int>(activation_at(p.pairs, p.first_group, s.first) + threadIdx.x);
        int left = (s.last - s.first) * 32 - threadIdx.x;
        auto copy_step = [&](int block) {
            copy(from, left, block * L::STAGE_GROUPS, written);
            written = after(written);
            if (block < L::GROUP_BLOCKS - 1) return;
            from += L::PAIRS * 32;
            left -= L::PAIRS * 32;
        };
        copy_step(0);
        copy_step(1 % L::GROUP_BLOCKS);
#pragma unroll 1
        for (int pairs = s.last - s.first; pairs > 0; pairs -= L::PAIRS) {
#pragma unroll
            for (int block = 0; block < L::GROUP_BLOCKS; block++) {
                copy_async_wait<1>();
                __syncthreads();
                copy_step((block + 2) % L::GROUP_BLOCKS);
                const uint32_t stage = read + wk * PAIR_BYTES + lane * 16;
                read = after(read);
                if (!active) continue;
                // the last block of groups reloads
                if (block < L::GROUP_BLOCKS - 1)
                    chunks<false>(next, stage, block * L::STAGE_GROUPS, pairs);
                else
                    chunks<true>(next, stage, block * L::STAGE_GROUPS, pairs);
            }
            next += L::PAIRS * 64;
        }
        copy_async_wait<0>();
        __syncthreads();
    }

    // ---- sums: fragments go through shared memory, eight groups at a time ----

    __device__ float4* staged(int k, int g) const {
        return reinterpret_cast<float4*>(shared) + ((k * warps_m + wm) * L::STAGE_GROUPS + g) * 32 + lane;
    }

    // Puts the sums of one block of groups where the row tile's other warps find them.
    __device__ void stage(int block) {
#pragma unroll
        for (int b = 0; b < L::GROUP_BLOCKS; b++)
            if (b == block)
#pragma unroll
                for (int g = 0; g < L::STAGE_GROUPS; g++) {
                    const float(&a)[4] = acc[b * L::STAGE_GROUPS + g];
                    *staged(wk, g) = make_float4(a[0], a[1], a[2], a[3]);
                }
        // a single warp finds its own
        if (WK > 1) __syncthreads();
    }

    // The sum of the warps along k, in order.
    __device__ float4 sum_of_warps(int g) const {
        float4 sum = *staged(0, g);
#pragma unroll
        for (int k = 1; k < WK; k++) add(sum, *staged(k, g));
        return sum;
    }

    // A worker's partial sums of this row tile: of the row block that it begins with, or of one whose
    // beginning it has.
    __device__ float4* partial(int worker, bool begins, int tile_of_block) const {
        return p.partials + (((2 * worker + begins) * p.block_tiles + tile_of_block) * NG * 32 + lane);
    }

    // Says that this block's part of a shared row block is there, of which a barrier has assured it;
    // whether it was the last.
    __device__ bool arrive(const Segment& s, int sub) {
        bool last = false;
        // the barriers hand the fences of this thread on to the block's other threads
        if (threadIdx.x == 0) {
            unsigned* const counter = p.counters + s.block * subs() + sub;
            const unsigned own = s.last - s.first, all = p.pairs;
            __threadfence();
            last = atomicAdd(counter, own) + own == all;
            if (last) atomicExch(counter, 0u);
            __threadfence();
        }
        return __syncthreads_or(last);
    }

    // What follows the product, for the row tiles of workers [from, to].
    template <typename Epilogue>
    __device__ void epilogue(const Linear& p, const Segment& s, int sub, int from, int to) {
        const bool is_staged = L::GROUP_BLOCKS == 1 && from != to;
        const int first_tile = s.block * p.block_tiles + sub * warps_m;
        const int tile = first_tile + wm, tile_of_block = sub * warps_m + wm;
        const int rows = p.rows->rows;
#pragma unroll 1
        for (int block = 0; block < L::GROUP_BLOCKS; block++) {
            const int first = block * L::STAGE_GROUPS;
            const int count = tile < p.row_tiles ? min(L::STAGE_GROUPS, groups - first) : 0;
            if (first >= groups) break;
            if (!is_staged) stage(block);
#pragma unroll 1
            for (int g = wk; g < count; g += WK) {
                // of this block from its own warps, of the others from memory, in order
                auto sum_of = [&](int worker, const float4* of_other) {
                    return worker == static_cast<int>(blockIdx.x) ? sum_of_warps(g) : __ldcg(of_other);
                };
                float4 sum = sum_of(from, partial(from, true, tile_of_block) + (first + g) * 32);
                const float4* of_other = partial(from, false, tile_of_block) + (first + g) * 32;
                for (int worker = from + 1; worker <= to; worker++) {
                    of_other += 2 * p.block_tiles * NG * 32;
                    add(sum, sum_of(worker, of_other));
                }
                const Place at{tile, p.first_group + first + g, lane, g * GROUP + lane % 4 * 2};
                float c[4] = {sum.x, sum.y, sum.z, sum.w};
                Epilogue::fragment(p, at, wm, warps_m, rows, scales() + first * GROUP, of_tiles(), c);
                if constexpr (Epilogue::KEEPS) *staged(0, g) = make_float4(c[0], c[1], c[2], c[3]);
            }
            __syncthreads();
            if constexpr (Epilogue::KEEPS) {
#pragma unroll 1
                for (int g = wk; g < count; g += WK) {
                    const float4 v = *staged(0, g);
                    const Place at{tile, p.first_group + first + g, lane, g * GROUP + lane % 4 * 2};
                    float c[4] = {v.x, v.y, v.z, v.w};
                    Epilogue::finish(p, at, wm, rows, of_tiles(), c);
                }
            } else {
                Epilogue::block(p, first_tile, warps_m, p.first_group + first, rows, of_tiles());
            }
            __syncthreads();
        }
    }

    // Sums up with the other blocks of this row block; the last of them does what follows.
    __device__ void finish(const Segment& s, int sub) {
        int from = blockIdx.x, to = from;
        if (s.last - s.first < p.pairs) {
            const bool active = s.block * p.block_tiles + sub * warps_m + wm < p.row_tiles;
            float4* const mine = partial(blockIdx.x, s.first == 0, sub * warps_m + wm);
#pragma unroll 1
            for (int block = 0; block < L::GROUP_BLOCKS; block++) {
                const int first = block * L::STAGE_GROUPS;
                if (first >= groups) break;
                stage(block);
                for (int g = wk; g < L::STAGE_GROUPS && first + g < groups && active; g += WK)
                    mine[(first + g) * 32] = sum_of_warps(g);
                __syncthreads();
            }
            if (!arrive(s, sub)) return;
            from = work.first_sharer(s.block), to = work.last_sharer(s.block);
        }
        // Most blocks that share a row block do not come here, and load none of what it takes; with many
        // rows that is little beside the rest, and costs registers that are not there.
        const Linear& p = (&this->p)[NG < 8 ? zero_from_here() : 0];
        switch (p.epilogue) {
            case Linear::RESIDUAL: epilogue<Residual>(p, s, sub, from, to); break;
            case Linear::SWIGLU: epilogue<SwiGlu>(p, s, sub, from, to); break;
            case Linear::QKV: epilogue<Qkv>(p, s, sub, from, to); break;
            case Linear::LOGITS: epilogue<Logits>(p, s, sub, from, to); break;
        }
    }

    __device__ void run() {
        Segment s = work.first_segment();
        // weights, which nobody writes, are under way before the launch ahead is over
        load(s, s.block * p.block_tiles + wm);
        after_previous();
        const int rows = p.rows->rows;
        if (rows <= p.first_group * GROUP) return;
        groups = min(NG, static_cast<int>((rows + GROUP - 1u) / GROUP) - p.first_group);
        if (p.input_squares)
            for (int i = threadIdx.x; i < groups * GROUP; i += blockDim.x) {
                float sum = 0.0f;
                const int row = p.first_group * GROUP + i;
                if (row < rows)
                    for (int part = 0; part < p.input_parts; part++) sum += p.input_squares[part * MAX_ROWS + row];
                scales()[i] = __frsqrt_rn(sum * p.inverse_width + p.eps) * p.input_scale;
            }
        while (s.first < s.last) {
            for (int sub = 0; sub < subs(); sub++) {
                const int tile = s.block * p.block_tiles + sub * warps_m + wm;
                products(s, tile);
                // where there are registers for it, the next weights are under way while this
                // product is finished
                if (NG >= 8) finish(s, sub);
                const Segment done = s;
                const bool is_last = sub + 1 == subs();
                if (is_last) s = work.segment(s.block + 1, 0);
                load(s, is_last ? s.block * p.block_tiles + wm : tile + warps_m);
                if (NG < 8) finish(done, sub);
            }
        }
    }
};

}  // namespace

#define LINEAR(NG, WK, THREADS, BLOCKS)                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) linear_##NG##_##WK(const Linear p) { \
        extern __shared__ uint4 dynamic[];                                                             \
        Kernel<NG, WK>(p, reinterpret_cast<char*>(dynamic)).run();                                     \
    }

LINEAR(1, 1, 512, 1)
LINEAR(2, 1, 512, 1)
LINEAR(4, 1, 512, 1)
LINEAR(8, 1, 512, 1)
LINEAR(32, 1, 256, 1)
LINEAR(1, 8, 256, 2)
LINEAR(2, 8, 256, 2)
LINEAR(4, 8, 256, 2)
LINEAR(8, 8, 256, 2)
LINEAR(32, 8, 256, 1)
