// Attention of a pass over a KV cache: out = softmax(q k^T / sqrt(head_dim)) v, for chains and trees.
//
//   out     bf16, activations in B order [rows, heads * head_dim] (layout.cuh)
//   q       bf16 [kv head][row * group + h][head_dim], kv heads MAX_ROWS * group rows apart
//   keys, values    one layer of the cache (layout.cuh), capacity_tiles tiles a kv head
//   rows, path      the pass (layout.cuh)
//   partials        record [row group][kv head][split][ROW_WARPS]: head_dim * 64 + 128 bytes
//   arrived         unsigned [row group][kv head], zero before and after
//
// An mma row is a (row, head of the group) pair, row * group + h. An item is (kv head, row group of
// ROW_WARPS tiles of 16 mma rows, split of 512 positions). Grid: any number of blocks, which loop
// over the items; `first_group` and `groups` choose row groups, so that a large pass may be cut in
// launches with small workspaces. Block: 8 warps, ROW_WARPS along the row tiles x POSITION_WARPS
// along the positions. Shared memory: Shape::BYTES, dynamic.
//
// Bytes, per kv head and row group with n positions of context:
//   cache     n * head_dim * 4, once
//   q         ROW_WARPS * 16 * head_dim * 2 per split;   out the same, once
//   partials  ROW_WARPS * (head_dim * 64 + 128) per split, written and read; none for n <= 512
// 8 rows, 8 kv heads, group 4, head_dim 128, n = 8192: 33.6 MB of cache, 1.0 MB of q from L2,
// 2.1 MB of partials each way, which L2 holds.
//
// Exactness. Position p is lane p % 16 of tile p / 16. Four tiles are a sub-split, whose state
// (maximum, sum, weighted values) one warp makes with online softmax; eight sub-splits are a split.
// States are folded in ascending order, sub-splits into splits, splits into the result. A row that
// sees nothing of a tile, sub-split or split is left as it is by it, up to the sign of a zero, which
// the last addition takes away. So ROW_WARPS, the other rows and the grid move no bit. All sums are
// written as intrinsics, lest instances contract them differently. Values are finite: those of
// positions that a row does not see meet a weight of zero.
//
// A tile that reaches beyond `shared` lies elsewhere for each row. It is gathered row by row along
// the row's path into the lanes that plain decoding would use, and the row keeps its own result.
#include "layout.cuh"
#include "ptx.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int SPLIT_TILES = 32;
constexpr int SUB_TILES = 4;
constexpr float INFINITE = __builtin_huge_valf();

template <int HEAD_DIM, int ROW_WARPS>
struct Shape {
    static constexpr int DIM = HEAD_DIM;
    static constexpr int POSITION_WARPS = WARPS / ROW_WARPS;
    static constexpr int STEPS = SPLIT_TILES / SUB_TILES / POSITION_WARPS;
    static constexpr int K_TILES = HEAD_DIM / 16;
    static constexpr int N_TILES = HEAD_DIM / 8;
    // n-tiles of the folded state that a warp owns: warp (r, p) those from p * OWN of row tile r
    static constexpr int OWN = (N_TILES + POSITION_WARPS - 1) / POSITION_WARPS;

    // With several row tiles, the warps that read the same positions share a ring of half tiles
    // (keys or values of 16 positions).
    static constexpr bool RING = ROW_WARPS > 1;
    static constexpr int HALF_BYTES = HEAD_DIM * 32;
    static constexpr int SLOTS = HEAD_DIM > 128 ? 2 : ROW_WARPS == 2 ? 4 : ROW_WARPS == 4 ? 8 : 12;
    static constexpr int RING_BYTES = RING ? POSITION_WARPS * SLOTS * HALF_BYTES : 0;

    // States cross the block in rounds of ROUND n-tiles for each owner.
    static constexpr int ROUND_LIMIT = (HEAD_DIM > 128 ? 16 : RING ? 32 : 64) * 1024 / (WARPS * 512 * POSITION_WARPS);
    static constexpr int ROUND = OWN < ROUND_LIMIT ? OWN : ROUND_LIMIT;
    static constexpr int EXCHANGE_BYTES = POSITION_WARPS > 1 ? WARPS * POSITION_WARPS * ROUND * 512 : 0;

    // q: rows 16 bytes longer than they need be, lest ldmatrix meet conflicts. In registers where
    // there is room; then it passes through the memory of the exchange.
    static constexpr bool Q_IN_REGISTERS = HEAD_DIM <= 128;
    static constexpr int Q_STRIDE = HEAD_DIM * 2 + 16;
    static constexpr int Q_BYTES = ROW_WARPS * 16 * Q_STRIDE;

    static constexpr int UNION_BYTES =
        !Q_IN_REGISTERS ? EXCHANGE_BYTES + Q_BYTES : EXCHANGE_BYTES > Q_BYTES ? EXCHANGE_BYTES : Q_BYTES;
    static constexpr int Q_AT = RING_BYTES + (Q_IN_REGISTERS ? 0 : EXCHANGE_BYTES);
    static constexpr int STATES_AT = RING_BYTES + UNION_BYTES;
    static constexpr int POSITIONS_AT = STATES_AT + WARPS * 16 * 8;
    static constexpr int BYTES = POSITIONS_AT + MAX_ROWS * 4;
    static_assert(BYTES <= 99 * 1024, "a block of sm_86 has no more");
    static_assert(ROUND > 0 && SLOTS > 1 && HEAD_DIM % 16 == 0 && HEAD_DIM <= 256);

    static constexpr int RECORD = N_TILES * 512 + 16 * 8;  // bytes of a row tile's partial
};

// What one warp knows of 16 mma rows, lane 4 g + t of rows g and g + 8: the largest score in units
// of log2, the sum of weights (this lane's part of it until the sub-split ends), the weighted values.
template <int N_TILES>
struct State {
    float top[2];
    float sum[2];
    float value[N_TILES][4];

    __device__ __forceinline__ void clear() {
        top[0] = top[1] = -INFINITE;
        sum[0] = sum[1] = 0;
#pragma unroll
        for (int n = 0; n < N_TILES; n++) value[n][0] = value[n][1] = value[n][2] = value[n][3] = 0;
    }
};

// 2^(from - to), where from <= to: 1 where they are equal, infinities included.
__device__ __forceinline__ float decay(float from, float to) {
    float power = exp2_approx(__fsub_rn(from, to));  // apart, for a select and no branch
    return from == to ? 1.0f : power;
}

// Folds (top, sum) of one more state into those of a running one; the weights of both come back.
__device__ __forceinline__ void fold(float& top, float& sum, float2 more, float& keep, float& add) {
    float most = fmaxf(top, more.x);
    keep = decay(top, most);
    add = decay(more.x, most);
    add = more.x == -INFINITE ? 0.0f : add;
    top = most;
    sum = __fmaf_rn(sum, keep, __fmul_rn(more.y, add));
}

__device__ __forceinline__ void fold(float (&value)[4], const float (&keep)[2], float4 more, const float (&add)[2]) {
    value[0] = __fmaf_rn(value[0], keep[0], __fmul_rn(more.x, add[0]));
    value[1] = __fmaf_rn(value[1], keep[0], __fmul_rn(more.y, add[0]));
    value[2] = __fmaf_rn(value[2], keep[1], __fmul_rn(more.z, add[1]));
    value[3] = __fmaf_rn(value[3], keep[1], __fmul_rn(more.w, add[1]));
}

// Takes the scores of a tile into the state's maxima and sums, decays its values; gives the tile's
// weights as the A operand. Positions beyond seen[0], seen[1] are masked where `masked`.
template <int N_TILES>
__device__ __forceinline__ uint4 weigh(State<N_TILES>& state, float (&score)[2][4], float scale, bool masked,
                                       int first_position, const int (&seen)[2]) {
    if (masked) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            int position = first_position + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
            if (position > seen[i % 4 / 2]) score[i / 4][i % 4] = -INFINITE;
        }
    }
    float shift[2], keep[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(fmaxf(score[0][2 * h], score[0][2 * h + 1]), fmaxf(score[1][2 * h], score[1][2 * h + 1]));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        most = fmaxf(state.top[h], __fmul_rn(most, scale));
        keep[h] = decay(state.top[h], most);
        state.top[h] = most;
        // a row that has seen nothing yet: all its scores are -inf, and stay so
        shift[h] = most == -INFINITE ? 0.0f : -most;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        score[i / 4][i % 4] = exp2_approx(__fmaf_rn(score[i / 4][i % 4], scale, shift[i % 4 / 2]));
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = __fadd_rn(__fadd_rn(score[0][2 * h], score[0][2 * h + 1]),
                              __fadd_rn(score[1][2 * h], score[1][2 * h + 1]));
        state.sum[h] = __fmaf_rn(state.sum[h], keep[h], sum);
    }
    // most tiles move no maximum
    if (__any_sync(~0u, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
        for (int n = 0; n < N_TILES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) state.value[n][i] = __fmul_rn(state.value[n][i], keep[i / 2]);
    }
    return {pack_bf16(score[0][0], score[0][1]), pack_bf16(score[0][2], score[0][3]),
            pack_bf16(score[1][0], score[1][1]), pack_bf16(score[1][2], score[1][3])};
}

// The A operands of a warp's q.
template <class S>
struct Query {
    uint4 tile[S::Q_IN_REGISTERS ? S::K_TILES : 1];
    uint32_t address;

    __device__ __forceinline__ void load(uint32_t rows_at) {
        address = rows_at + threadIdx.x % 16 * S::Q_STRIDE + threadIdx.x % 32 / 16 * 16;
        if constexpr (S::Q_IN_REGISTERS) {
#pragma unroll
            for (int k = 0; k < S::K_TILES; k++) tile[k] = load_matrix(address + k * 32);
        }
    }
    __device__ __forceinline__ uint4 operator[](int k) const {
        if constexpr (S::Q_IN_REGISTERS) return tile[k];
        return load_matrix(address + k * 32);
    }
};

// A tile that lies elsewhere for each row of the pass, for the 16 mma rows from warp_row on.
template <class S>
__device__ __forceinline__ void attend_gathered(State<S::N_TILES>& state, const Query<S>& query, const char* keys,
                                                const char* values, const Rows* rows, const int* path,
                                                const int* positions, int tile, float scale, int warp_row,
                                                int group, const int (&seen)[2]) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    // rows that do not exist have the last one's: nobody reads them
    const int last_row = rows->rows - 1;
    const int node[2] = {min((warp_row + g) / group, last_row), min((warp_row + g + 8) / group, last_row)};
    const int first_node = warp_row / group, last_node = min((warp_row + 15) / group, last_row);
    const int shared = rows->shared;
    // slot of a position that `row` sees, or -1
    auto slot = [&](int row, int position) {
        if (position > positions[row]) return -1;
        return position < shared ? position : path[rows->path_at[row] + position - shared];
    };

    float score[2][4] = {};
#pragma unroll 1
    for (int row = first_node; row <= last_node; row++) {
        if (tile * TILE > positions[row]) continue;
        const char* at[2];
        bool there[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int s = slot(row, tile * TILE + 8 * h + g);
            there[h] = s >= 0;
            at[h] = keys + key_at(S::DIM, there[h] ? s : 0, 2 * t);
        }
        float own[2][4] = {};
#pragma unroll
        for (int k = 0; k < S::K_TILES; k++) {
            uint4 a = query[k];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint2 b = {0, 0};
                if (there[h]) b = *reinterpret_cast<const uint2*>(at[h] + k * 512);
                mma(own[h], a, b.x, b.y);
            }
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (node[i % 4 / 2] == row) score[i / 4][i % 4] = own[i / 4][i % 4];
    }

    uint4 weights = weigh(state, score, scale, true, tile * TILE, seen);

#pragma unroll 1
    for (int row = first_node; row <= last_node; row++) {
        if (tile * TILE > positions[row]) continue;
        // the others' weights are zero and leave their values alone
        const uint4 own = {node[0] == row ? weights.x : 0, node[1] == row ? weights.y : 0,
                           node[0] == row ? weights.z : 0, node[1] == row ? weights.w : 0};
        const char* at[4];
        bool there[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int s = slot(row, tile * TILE + i / 2 * 8 + 2 * t + i % 2);
            there[i] = s >= 0;
            at[i] = values + value_at(S::DIM, there[i] ? s : 0, g);
        }
#pragma unroll
        for (int n = 0; n < S::N_TILES; n++) {
            uint32_t b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[i] = 0;
                // features 8 further on lie 8 bytes further on
                if (there[i]) b[i] = *reinterpret_cast<const uint16_t*>(at[i] + n / 2 * 512 + n % 2 * 8);
            }
            mma(state.value[n], own, b[0] | b[1] << 16, b[2] | b[3] << 16);
        }
    }
}

// Writes n-tiles first..first + COUNT of a head's output for one mma row; `word` holds two features
// of each. Features of four n-tiles from a whole pair on are 16 bytes of a lane.
template <int WIDTH, int COUNT>
__device__ __forceinline__ void write_row(uint32_t* out, int pairs, int row, int first_feature,
                                          const uint32_t (&word)[COUNT], int count) {
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < COUNT; i += WIDTH) {
        if (i >= count) break;
        int feature = first_feature + 8 * i;
        uint32_t* to = out + (activation_at(pairs, row / GROUP, feature / PAIR) + row % GROUP * 4 + t) * 4 +
                       feature % PAIR / 8;
        if constexpr (WIDTH == 4)
            *reinterpret_cast<uint4*>(to) = {word[i], word[i + 1], word[i + 2], word[i + 3]};
        else if constexpr (WIDTH == 2)
            *reinterpret_cast<uint2*>(to) = {word[i], word[i + 1]};
        else
            *to = word[i];
    }
}

template <int HEAD_DIM, int ROW_WARPS>
__device__ __forceinline__ void attention(uint32_t* out, const uint4* q, const char* keys, const char* values,
                                          const Rows* rows, const int* path, char* partials, unsigned* arrived,
                                          int kv_heads, int group, int capacity_tiles, int first_group, int groups,
                                          float scale) {
    using S = Shape<HEAD_DIM, ROW_WARPS>;
    constexpr int POSITION_WARPS = S::POSITION_WARPS, K_TILES = S::K_TILES, N_TILES = S::N_TILES, OWN = S::OWN;
    extern __shared__ uint4 memory[];
    __shared__ int is_last;
    char* const base = reinterpret_cast<char*>(memory);
    float4* const exchange = reinterpret_cast<float4*>(base + S::RING_BYTES);
    float2* const states = reinterpret_cast<float2*>(base + S::STATES_AT);
    int* const positions = reinterpret_cast<int*>(base + S::POSITIONS_AT);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row_warp = warp % ROW_WARPS, position_warp = warp / ROW_WARPS;
    const int g = lane / 4, t = lane % 4;

    after_previous();
    const int row_count = rows->rows, shared = rows->shared;
    if (row_count == 0) return;
    const int total = row_count * group;  // mma rows
    if (threadIdx.x < row_count) positions[threadIdx.x] = rows->position[threadIdx.x];
    __syncthreads();
    // most of positions[first..=last]
    auto last_position = [&](int first, int last) {
        int most = 0;
        for (int r = first + lane; r <= last; r += 32) most = max(most, positions[r]);
        return __reduce_max_sync(~0u, most);
    };
    const int splits = last_position(0, row_count - 1) / (SPLIT_TILES * TILE) + 1;
    groups = min(groups, (total + ROW_WARPS * 16 - 1) / (ROW_WARPS * 16) - first_group);
    const int items = groups * kv_heads * splits;

    // groups of rows that share positions follow each other: the second finds them in L2
    for (int item = blockIdx.x; item < items; item += gridDim.x) {
        const int row_group = item % groups;
        const int split = item / groups % splits;
        const int head = item / groups / splits;

        const int first_mma_row = (first_group + row_group) * ROW_WARPS * 16;
        const int last_seen = last_position(first_mma_row / group, (min(first_mma_row + ROW_WARPS * 16, total) - 1) / group);
        const int own_splits = last_seen / (SPLIT_TILES * TILE) + 1;
        if (split >= own_splits) continue;
        const int tiles = last_seen / TILE + 1;  // that a row of the group sees
        const int direct = last_seen < shared ? tiles : min(tiles, shared / TILE);

        // this warp's row tile
        const int warp_row = first_mma_row + row_warp * 16;
        const bool idle = warp_row >= total;
        // rows that do not exist follow the last that does
        const int seen[2] = {positions[min((warp_row + g) / group, row_count - 1)],
                             positions[min((warp_row + g + 8) / group, row_count - 1)]};
        const int least_seen = __reduce_min_sync(~0u, min(seen[0], seen[1]));
        const int warp_tiles = idle ? 0 : __reduce_max_sync(~0u, max(seen[0], seen[1])) / TILE + 1;

        const size_t head_at = static_cast<size_t>(head) * capacity_tiles * K_TILES * 512;
        const char* const head_keys = keys + head_at;
        const char* const head_values = values + head_at;
        const int first_tile = split * SPLIT_TILES + position_warp * SUB_TILES;

        // ring: half u of this stream of positions is keys (even) or values of its tile u / 2
        int filled = 0, slot_filled = 0, slot_read = 0;
        const uint32_t ring = shared_address(base) + position_warp * S::SLOTS * S::HALF_BYTES + lane * 16;
        auto fill = [&] {
            int i = filled / 2;
            int tile = first_tile + i / SUB_TILES * POSITION_WARPS * SUB_TILES + i % SUB_TILES;
            if (i < S::STEPS * SUB_TILES && tile < direct) {
                const char* from = (filled % 2 ? head_values : head_keys) + static_cast<size_t>(tile) * K_TILES * 512;
#pragma unroll
                for (int k = 0; k < K_TILES; k += ROW_WARPS)
                    if (K_TILES % ROW_WARPS == 0 || k + row_warp < K_TILES)
                        copy_async(ring + slot_filled * S::HALF_BYTES + (k + row_warp) * 512,
                                   from + (k + row_warp) * 512 + lane * 16);
            }
            copy_async_commit();
            filled++;
            slot_filled = slot_filled + 1 == S::SLOTS ? 0 : slot_filled + 1;
        };
        // waits for the next half, asks for one more, gives its address
        auto next = [&] {
            copy_async_wait<S::SLOTS - 2>();
            barrier(1 + position_warp, ROW_WARPS * 32);
            fill();
            uint32_t at = ring + slot_read * S::HALF_BYTES;
            slot_read = slot_read + 1 == S::SLOTS ? 0 : slot_read + 1;
            return at;
        };
        uint4 key[S::RING ? 1 : K_TILES], value[S::RING ? 1 : K_TILES];
        auto load = [&](uint4(&to)[S::RING ? 1 : K_TILES], const char* from, int tile) {
            const uint4* at = reinterpret_cast<const uint4*>(from + static_cast<size_t>(tile) * K_TILES * 512) + lane;
#pragma unroll
            for (int k = 0; k < K_TILES; k++) to[k] = load_streaming(at + k * 32);
        };

        __syncthreads();  // the item before is done with shared memory
        if constexpr (S::RING) {
#pragma unroll 1
            for (int i = 0; i < S::SLOTS - 1; i++) fill();
        } else if (first_tile < direct) {
            load(key, head_keys, first_tile);
            load(value, head_values, first_tile);
        }

        Query<S> query;
        {
            // chunks of 16 bytes. Where 8 lanes would write to two rows, the padding counts as one:
            // their places follow each other.
            constexpr int ROW = HEAD_DIM / 8, STEP = HEAD_DIM % 64 ? ROW + 1 : ROW;
            const uint4* from = q + (static_cast<size_t>(head) * MAX_ROWS * group + first_mma_row) * ROW;
            uint4* to = reinterpret_cast<uint4*>(base + S::Q_AT);
#pragma unroll 4
            for (int i = threadIdx.x; i < ROW_WARPS * 16 * STEP; i += WARPS * 32) {
                int r = i / STEP, c = i % STEP;
                if (STEP == ROW || c < ROW)
                    to[r * (ROW + 1) + c] = first_mma_row + r < total ? from[r * ROW + c] : uint4{0, 0, 0, 0};
            }
            __syncthreads();
            query.load(shared_address(base + S::Q_AT) + row_warp * 16 * S::Q_STRIDE);
        }

        // n-tiles of the folded state that are this warp's
        const int owned = N_TILES % OWN == 0 && N_TILES / OWN == POSITION_WARPS
                              ? OWN
                              : max(0, min(OWN, N_TILES - position_warp * OWN));
        State<OWN> folded;
        folded.clear();
#pragma unroll 1
        for (int step = 0; step < S::STEPS; step++) {
            const int step_tile = split * SPLIT_TILES + step * POSITION_WARPS * SUB_TILES;
            if (step_tile >= tiles) break;
            State<N_TILES> state;
            state.clear();

#pragma unroll 1
            for (int j = 0; j < SUB_TILES; j++) {
                const int tile = step_tile + position_warp * SUB_TILES + j;
                if (tile >= (S::RING ? tiles : warp_tiles)) break;
                if (tile >= direct) {
                    if (tile < warp_tiles)
                        attend_gathered<S>(state, query, head_keys, head_values, rows, path, positions, tile, scale,
                                           warp_row, group, seen);
                    continue;
                }
                const bool ahead = j + 1 < SUB_TILES && tile + 1 < direct && tile + 1 < warp_tiles;
                const bool masked = tile * TILE + TILE - 1 > least_seen;

                float score[2][4] = {};
                uint32_t at = 0;
                if constexpr (S::RING) at = next();
                if (!S::RING || tile < warp_tiles) {
#pragma unroll
                    for (int k = 0; k < K_TILES; k++) {
                        uint4 b = S::RING ? load_shared(at + k * 512) : key[S::RING ? 0 : k];
                        uint4 a = query[k];
                        mma(score[0], a, b.x, b.y);
                        mma(score[1], a, b.z, b.w);
                    }
                }
                if constexpr (!S::RING)
                    if (ahead) load(key, head_keys, tile + 1);
                if constexpr (S::RING) at = next();
                if (!S::RING || tile < warp_tiles) {
                    uint4 weights = weigh(state, score, scale, masked, tile * TILE, seen);
#pragma unroll
                    for (int k = 0; k < K_TILES; k++) {
                        uint4 b = S::RING ? load_shared(at + k * 512) : value[S::RING ? 0 : k];
                        mma(state.value[2 * k], weights, b.x, b.y);
                        mma(state.value[2 * k + 1], weights, b.z, b.w);
                    }
                }
                if constexpr (!S::RING)
                    if (ahead) load(value, head_values, tile + 1);
            }

#pragma unroll
            for (int h = 0; h < 2; h++) {
                state.sum[h] = __fadd_rn(state.sum[h], __shfl_xor_sync(~0u, state.sum[h], 1));
                state.sum[h] = __fadd_rn(state.sum[h], __shfl_xor_sync(~0u, state.sum[h], 2));
            }
            float keep[POSITION_WARPS][2], add[POSITION_WARPS][2];
            if constexpr (POSITION_WARPS == 1) {
#pragma unroll
                for (int h = 0; h < 2; h++)
                    fold(folded.top[h], folded.sum[h], {state.top[h], state.sum[h]}, keep[0][h], add[0][h]);
#pragma unroll
                for (int n = 0; n < N_TILES; n++) {
                    const float(&v)[4] = state.value[n];
                    fold(folded.value[n], keep[0], {v[0], v[1], v[2], v[3]}, add[0]);
                }
                continue;
            }
#pragma unroll
            for (int first = 0; first < OWN; first += S::ROUND) {
                __syncthreads();  // what was there is read
                if (first == 0 && t == 0) {
#pragma unroll
                    for (int h = 0; h < 2; h++) states[warp * 16 + g + 8 * h] = {state.top[h], state.sum[h]};
                }
#pragma unroll
                for (int p = 0; p < POSITION_WARPS; p++)
#pragma unroll
                    for (int i = 0; i < S::ROUND; i++) {
                        int n = p * OWN + first + i;
                        if (first + i >= OWN || n >= N_TILES) continue;
                        const float(&v)[4] = state.value[n];
                        exchange[((warp * POSITION_WARPS + p) * S::ROUND + i) * 32 + lane] = {v[0], v[1], v[2], v[3]};
                    }
                __syncthreads();
                if (first == 0) {
#pragma unroll
                    for (int p = 0; p < POSITION_WARPS; p++)
#pragma unroll
                        for (int h = 0; h < 2; h++)
                            fold(folded.top[h], folded.sum[h], states[(p * ROW_WARPS + row_warp) * 16 + g + 8 * h],
                                 keep[p][h], add[p][h]);
                }
#pragma unroll
                for (int p = 0; p < POSITION_WARPS; p++)
#pragma unroll
                    for (int i = 0; i < S::ROUND; i++) {
                        if (first + i >= OWN || first + i >= owned) continue;
                        int from = ((p * ROW_WARPS + row_warp) * POSITION_WARPS + position_warp) * S::ROUND + i;
                        fold(folded.value[first + i], keep[p], exchange[from * 32 + lane], add[p]);
                    }
            }
        }

        if (own_splits > 1) {
            const int place = row_group * kv_heads + head;
            char* record = partials + (static_cast<size_t>(place) * splits * ROW_WARPS + row_warp) * S::RECORD;
            float4* to = reinterpret_cast<float4*>(record + static_cast<size_t>(split) * ROW_WARPS * S::RECORD);
            if (!idle) {
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    const float(&v)[4] = folded.value[i];
                    if (i < owned) to[(position_warp * OWN + i) * 32 + lane] = {v[0], v[1], v[2], v[3]};
                }
                if (position_warp == 0 && t == 0) {
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        reinterpret_cast<float2*>(to + N_TILES * 32)[g + 8 * h] = {folded.top[h], folded.sum[h]};
                }
            }
            __syncthreads();
            if (threadIdx.x == 0) {
                __threadfence();
                // the last one's turns the counter back to zero
                is_last = atomicInc(arrived + place, own_splits - 1) == own_splits - 1;
                __threadfence();
            }
            __syncthreads();
            if (!is_last) continue;
            folded.clear();
            // several splits' loads in flight
#pragma unroll(OWN >= 8 ? 1 : 8 / OWN)
            for (int s = 0; s < own_splits && !idle; s++) {
                const float4* from = reinterpret_cast<float4*>(record + static_cast<size_t>(s) * ROW_WARPS * S::RECORD);
                float keep[2], add[2];
#pragma unroll
                for (int h = 0; h < 2; h++)
                    fold(folded.top[h], folded.sum[h],
                         __ldcg(reinterpret_cast<const float2*>(from + N_TILES * 32) + g + 8 * h), keep[h], add[h]);
#pragma unroll
                for (int i = 0; i < OWN; i++)
                    if (i < owned) fold(folded.value[i], keep, __ldcg(from + (position_warp * OWN + i) * 32 + lane), add);
            }
        }

        const int pairs = (kv_heads * group * HEAD_DIM + PAIR - 1) / PAIR;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int mma_row = warp_row + g + 8 * h;
            if (mma_row >= total) continue;
            const float inverse = reciprocal_approx(folded.sum[h]);
            uint32_t word[OWN];
#pragma unroll
            for (int i = 0; i < OWN; i++)
                word[i] = pack_bf16(__fadd_rn(__fmul_rn(folded.value[i][2 * h], inverse), 0.0f),
                                    __fadd_rn(__fmul_rn(folded.value[i][2 * h + 1], inverse), 0.0f));
            const int row = mma_row / group;
            const int feature = (head * group + mma_row % group) * HEAD_DIM + position_warp * OWN * 8;
            write_row<OWN % 4 == 0 && HEAD_DIM % 32 == 0 ? 4 : OWN % 2 == 0 ? 2 : 1>(out, pairs, row, feature, word,
                                                                                   owned);
        }
    }
}

}  // namespace

#define ATTENTION(HEAD_DIM, ROW_WARPS)                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)                                                  \
        attention_##HEAD_DIM##_##ROW_WARPS(uint32_t* out, const uint4* q, const char* keys, const char* values,     \
                                           const Rows* rows, const int* path, char* partials, unsigned* arrived,         \
                                           int kv_heads, int group, int capacity_tiles, int first_group, int groups, \
                                           float scale) {                                                           \
        attention<HEAD_DIM, ROW_WARPS>(out, q, keys, values, rows, path, partials, arrived, kv_heads, group,        \
                                       capacity_tiles, first_group, groups, scale);                                 \
    }

ATTENTION(64, 1)
ATTENTION(64, 2)
ATTENTION(64, 4)
ATTENTION(64, 8)
ATTENTION(128, 1)
ATTENTION(128, 2)
ATTENTION(128, 4)
ATTENTION(128, 8)

// Head dimensions that are seldom met: one instance, with two row tiles a block.
ATTENTION(16, 2)
ATTENTION(32, 2)
ATTENTION(48, 2)
ATTENTION(80, 2)
ATTENTION(96, 2)
ATTENTION(112, 2)
ATTENTION(160, 2)
