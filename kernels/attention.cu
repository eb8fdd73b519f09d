// Attention of a pass over a KV cache: out = softmax(q k^T / sqrt(head_dim)) v, for chains and trees.
//
//   out     f16, activations in B order [rows, heads * head_dim] (layout.cuh)
//   q       f16 [kv head][row * group + h][head_dim], kv heads MAX_ROWS * group rows apart
//   keys, values    one layer of the cache (layout.cuh), capacity_tiles tiles a kv head
//   rows, path      the pass (layout.cuh)
//   partials        record [row group][kv head][split][row tile]: head_dim * 64 + 128 bytes
//   arrived         unsigned [row group][kv head], zero before and after
//
// An mma row is a (row, head of the group) pair, row * group + h. An item is (kv head, row group of
// ROW_TILES tiles of 16 mma rows, split of 512 positions). Grid: any number of blocks, which loop
// over the items; `first_group` and `groups` choose row groups, so that a large pass may be cut in
// launches with small workspaces. Block: 8 warps, ROW_WARPS along the row tiles x POSITION_WARPS
// along the positions. Shared memory: Shape::BYTES, dynamic.
//
// Of 16 row tiles a warp takes two: keys and values leave L2 once for all of them, and shared memory
// once for both. Where there is a block for each half of a row group, it is cut in two (`each`).
//
// Bytes, per kv head and row group with n positions of context:
//   cache     n * head_dim * 4, once
//   q         ROW_TILES * 16 * head_dim * 2 per split;   out the same, once
//   partials  ROW_TILES * (head_dim * 64 + 128) per split, written and read; none for n <= 512
// 8 rows, 8 kv heads, group 4, head_dim 128, n = 8192: 33.6 MB of cache, 1.0 MB of q from L2,
// 2.1 MB of partials each way, which L2 holds; 64 rows: 33.6, 8.4 and 16.9 MB.
//
// Exactness. Position p is lane p % 16 of tile p / 16. Four tiles are a sub-split, whose state
// (maximum, sum, weighted values) one warp makes with online softmax; eight sub-splits are a split.
// States are folded in ascending order, sub-splits into splits, splits into the result. A row that
// sees nothing of a tile, sub-split or split is left as it is by it, up to the sign of a zero, which
// the last addition takes away. So ROW_TILES, the other rows and the grid move no bit. All sums are
// written as intrinsics, lest instances contract them differently. Values are finite, linear.cu sees
// to it: those of positions that a row does not see meet a weight of zero.
//
// A tile that reaches beyond `shared` lies elsewhere for each row. It is gathered row by row along
// the row's path into the lanes that plain decoding would use, and the row keeps its own result.
#include "layout.cuh"
#include "ptx.cuh"
#include "softmax.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int SPLIT_TILES = 32;
constexpr int SUB_TILES = 4;

template <int HEAD_DIM, int ROW_TILES>
struct Shape {
    static constexpr int DIM = HEAD_DIM;
    // row tiles of a warp: two read what they need of keys and values once
    static constexpr int EACH = ROW_TILES > WARPS ? ROW_TILES / WARPS : 1;
    static constexpr int ROW_WARPS = ROW_TILES / EACH;
    static constexpr int POSITION_WARPS = WARPS / ROW_WARPS;
    static constexpr int K_TILES = HEAD_DIM / 16;
    static constexpr int N_TILES = HEAD_DIM / 8;
    // n-tiles of the folded state that a warp owns: warp (r, p) those from p * OWN of row tile r
    static constexpr int OWN = (N_TILES + POSITION_WARPS - 1) / POSITION_WARPS;

    // With several row tiles, the warps that read the same positions share a ring of half tiles
    // (keys or values of 16 positions).
    static constexpr bool RING = ROW_WARPS > 1;
    static constexpr int HALF_BYTES = HEAD_DIM * 32;
    static constexpr int SLOTS = HEAD_DIM > 128 ? 2 : ROW_TILES == 2 ? 4 : ROW_TILES == 4 ? 8 : ROW_TILES == 8 ? 12 : 7;
    static constexpr int RING_BYTES = RING ? POSITION_WARPS * SLOTS * HALF_BYTES : 0;

    // States cross the block in rounds of ROUND n-tiles for each owner.
    static constexpr int ROUND_LIMIT = (HEAD_DIM > 128 ? 16 : RING ? 32 : 64) * 1024 / (WARPS * 512 * POSITION_WARPS);
    static constexpr int ROUND = OWN < ROUND_LIMIT ? OWN : ROUND_LIMIT;
    static constexpr int EXCHANGE_BYTES = POSITION_WARPS > 1 ? WARPS * POSITION_WARPS * ROUND * 512 : 0;

    // q: rows 16 bytes longer than they need be, lest ldmatrix meet conflicts. In registers where
    // there is room; then it passes through the memory of the exchange.
    static constexpr bool Q_IN_REGISTERS = HEAD_DIM <= 128;
    static constexpr int Q_STRIDE = HEAD_DIM * 2 + 16;
    static constexpr int Q_BYTES = ROW_TILES * 16 * Q_STRIDE;

    // Running values and q of two row tiles fill the registers: what they are folded into lies in
    // shared memory, where q has been.
    static constexpr int FOLDED_BYTES = EACH > 1 ? ROW_TILES * N_TILES * 512 : 0;

    static constexpr int OTHER_BYTES = EXCHANGE_BYTES + FOLDED_BYTES;  // never both
    static constexpr int UNION_BYTES =
        !Q_IN_REGISTERS ? OTHER_BYTES + Q_BYTES : OTHER_BYTES > Q_BYTES ? OTHER_BYTES : Q_BYTES;
    static constexpr int Q_AT = RING_BYTES + (Q_IN_REGISTERS ? 0 : EXCHANGE_BYTES);
    static constexpr int STATES_AT = RING_BYTES + UNION_BYTES;
    static constexpr int SEEN_AT = STATES_AT + WARPS * EACH * 16 * 8;
    static constexpr int POSITIONS_AT = SEEN_AT + WARPS * EACH * 8 * 8;
    static constexpr int BYTES = POSITIONS_AT + MAX_ROWS * 4;
    static_assert(BYTES <= (FOLDED_BYTES > 64 * 1024 ? 163 : 99) * 1024,
                  "a block of sm_80, or of sm_86, has no more");
    static_assert(ROUND > 0 && SLOTS > 1 && HEAD_DIM % 16 == 0 && HEAD_DIM <= 256);

    static constexpr int RECORD = N_TILES * 512 + 16 * 8;  // bytes of a row tile's partial
};

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
                                                int group, const int2* seen) {
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
    // where the lane's part of it lies in a head's keys or values, in bytes; there are fewer than 2^31
    constexpr int NOWHERE = -1;

    float score[2][4] = {};
#pragma unroll 1
    for (int row = first_node; row <= last_node; row++) {
        if (tile * TILE > positions[row]) continue;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int s = slot(row, tile * TILE + 8 * h + g);
            const int at = s < 0 ? NOWHERE : static_cast<int>(key_at(S::DIM, s, 2 * t));
            float own[4] = {};
#pragma unroll
            for (int k = 0; k < S::K_TILES; k++) {
                uint2 b = {0, 0};
                if (at != NOWHERE) b = *reinterpret_cast<const uint2*>(keys + at + k * 512);
                mma(own, query[k], b.x, b.y);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (node[i / 2] == row) score[h][i] = own[i];
        }
    }

    uint4 weights = weigh(state, score, scale, true, tile * TILE, [&] { return seen; });

#pragma unroll 1
    for (int row = first_node; row <= last_node; row++) {
        if (tile * TILE > positions[row]) continue;
        // the others' weights are zero and leave their values alone
        const uint4 own = {node[0] == row ? weights.x : 0, node[1] == row ? weights.y : 0,
                           node[0] == row ? weights.z : 0, node[1] == row ? weights.w : 0};
        int at[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int s = slot(row, tile * TILE + i / 2 * 8 + 2 * t + i % 2);
            at[i] = s < 0 ? NOWHERE : static_cast<int>(value_at(S::DIM, s, g));
        }
#pragma unroll
        for (int n = 0; n < S::N_TILES; n++) {
            uint32_t b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[i] = 0;
                // features 8 further on lie 8 bytes further on
                if (at[i] != NOWHERE)
                    b[i] = *reinterpret_cast<const uint16_t*>(values + at[i] + n / 2 * 512 + n % 2 * 8);
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

template <int HEAD_DIM, int ROW_TILES>
__device__ __forceinline__ void attention(uint32_t* out, const uint4* q, const char* keys, const char* values,
                                          const Rows* rows, const int* path, char* partials, unsigned* arrived,
                                          int kv_heads, int group, int capacity_tiles, int first_group, int groups,
                                          float scale) {
    using S = Shape<HEAD_DIM, ROW_TILES>;
    constexpr int EACH = S::EACH, ROW_WARPS = S::ROW_WARPS;
    constexpr int POSITION_WARPS = S::POSITION_WARPS, K_TILES = S::K_TILES, N_TILES = S::N_TILES, OWN = S::OWN;
    extern __shared__ uint4 memory[];
    __shared__ int is_last;
    // Registers are scarce while values run: what is asked for only between items, or for tiles that lie
    // apart, waits here.
    __shared__ struct {
        int rows, shared, total, splits, groups, each, items;         // of the pass; total mma rows
        int item, row_group, split, head, first_mma_row, own_splits;  // of the item
    } waiting;
    volatile auto& parked = waiting;
    char* const base = reinterpret_cast<char*>(memory);
    float4* const exchange = reinterpret_cast<float4*>(base + S::RING_BYTES);
    float2* const states = reinterpret_cast<float2*>(base + S::STATES_AT);
    int* const positions = reinterpret_cast<int*>(base + S::POSITIONS_AT);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row_warp = POSITION_WARPS == 1 ? warp : warp % ROW_WARPS;
    const int position_warp = POSITION_WARPS == 1 ? 0 : warp / ROW_WARPS;
    const int g = lane / 4, t = lane % 4;

    after_previous();
    if (rows->rows == 0) return;
    if (threadIdx.x < rows->rows) positions[threadIdx.x] = rows->position[threadIdx.x];
    __syncthreads();
    // most of positions[first..=last]
    auto last_position = [&](int first, int last) {
        int most = 0;
        for (int r = first + thread_from_here() % 32; r <= last; r += 32) most = max(most, positions[r]);
        return __reduce_max_sync(~0u, most);
    };
    {
        const int total = rows->rows * group;
        const int splits = last_position(0, rows->rows - 1) / (SPLIT_TILES * TILE) + 1;
        groups = min(groups, (total + ROW_TILES * 16 - 1) / (ROW_TILES * 16) - first_group);
        // one row tile a warp, where there is a block for each half of a group
        const int each = EACH > 1 && 2 * groups * kv_heads * splits <= gridDim.x ? 1 : EACH;
        groups *= EACH / each;
        if (threadIdx.x == 0)
            waiting = {rows->rows, rows->shared, total, splits, groups, each, groups * kv_heads * splits};
    }
    __syncthreads();

    // groups of rows that share positions follow each other: the second finds them in L2
    int item = blockIdx.x;
    while (item < parked.items) {
        const int groups = parked.groups;
        int splits = parked.splits, each = EACH > 1 ? parked.each : 1;
        const int row_group = item % groups;
        const int split = item / groups % splits;
        int head = item / groups / splits;

        int first_mma_row = (first_group * (EACH / each) + row_group) * each * ROW_WARPS * 16;
        const int end_mma_row = min(first_mma_row + each * ROW_WARPS * 16, parked.total);
        const int last_seen = last_position(first_mma_row / group, (end_mma_row - 1) / group);
        int own_splits = last_seen / (SPLIT_TILES * TILE) + 1;
        // of half a group there may be no rows
        if (split >= own_splits || first_mma_row >= end_mma_row) {
            item += gridDim.x;
            continue;
        }
        const int tiles = last_seen / TILE + 1;  // that a row of the group sees
        const int end_tile = min(tiles, (split + 1) * SPLIT_TILES);
        // Those before `direct` lie together; of two row tiles a warp whole sub-splits, for in one that
        // does not the warp takes its row tiles one after the other.
        const int shared = parked.shared;
        constexpr int WHOLE = EACH > 1 ? SUB_TILES : 1;
        const int together = shared / TILE / WHOLE * WHOLE;
        const int direct = last_seen < shared ? tiles : min(tiles, together);

        // this warp's row tiles
        const auto seen = [&](int e) {
            const int thread = thread_from_here();
            return reinterpret_cast<int2*>(base + S::SEEN_AT) + (thread / 32 * EACH + e) * 8 + thread % 32 / 4;
        };
        const int last_row = parked.rows - 1;
        int least_seen = INT32_MAX, warp_tiles = 0, warp_each = 0;
        __syncwarp();  // the item before is done with `seen`
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const int warp_row = first_mma_row + (row_warp + e * ROW_WARPS) * 16;
            // rows that do not exist follow the last that does
            const int2 last = {positions[min((warp_row + g) / group, last_row)],
                               positions[min((warp_row + g + 8) / group, last_row)]};
            if (t == 0) *seen(e) = last;
            least_seen = min(least_seen, __reduce_min_sync(~0u, min(last.x, last.y)));
            const int most = __reduce_max_sync(~0u, max(last.x, last.y)) / TILE + 1;
            if (warp_row < end_mma_row) warp_tiles = max(warp_tiles, most), warp_each = e + 1;
        }
        const int first_masked = (least_seen + 1) / TILE;
        if (!S::RING) warp_tiles = end_tile;  // all warps have the one row tile
        __syncwarp();

        // tiles of this head follow those of the heads before
        const int first_tile = split * SPLIT_TILES + position_warp * SUB_TILES;
        const int head_tile = head * capacity_tiles;

        // ring: keys of a tile, its values, keys of the next; half 2 i is keys of tile i of the layer
        int half = 2 * (head_tile + first_tile), slot_read = 0;
        const int end_half = 2 * (head_tile + min(direct, (split + 1) * SPLIT_TILES));
        const uint32_t ring = shared_address(base) + position_warp * S::SLOTS * S::HALF_BYTES + lane * 16;
        auto fill = [&](int slot) {
            if (half < end_half) {
                const char* from = half % 2 ? values : keys;
                from += static_cast<size_t>(half / 2) * S::HALF_BYTES + lane * 16;
#pragma unroll
                for (int k = 0; k < K_TILES; k += ROW_WARPS)
                    if (K_TILES % ROW_WARPS == 0 || k + row_warp < K_TILES)
                        copy_async(ring + slot * S::HALF_BYTES + (k + row_warp) * 512, from + (k + row_warp) * 512);
            }
            copy_async_commit();
            half++;
            // past the sub-splits of the other warps
            if (POSITION_WARPS > 1 && (half - 2 * head_tile) % (2 * SUB_TILES) == 0)
                half += 2 * (POSITION_WARPS - 1) * SUB_TILES;
        };
        // waits for the next half, asks for one more where the one before was, gives its address
        auto next = [&] {
            copy_async_wait<S::SLOTS - 2>();
            barrier(1 + position_warp, ROW_WARPS * 32);
            fill(slot_read == 0 ? S::SLOTS - 1 : slot_read - 1);
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
        if (threadIdx.x == 0) {
            waiting.item = item;
            waiting.row_group = row_group, waiting.split = split, waiting.head = head;
            waiting.first_mma_row = first_mma_row, waiting.own_splits = own_splits;
        }
        const char* const head_keys = keys + static_cast<size_t>(head_tile) * S::HALF_BYTES;
        const char* const head_values = values + static_cast<size_t>(head_tile) * S::HALF_BYTES;
        if constexpr (S::RING) {
#pragma unroll 1
            for (int i = 0; i < S::SLOTS - 1; i++) fill(i);
        } else if (first_tile < direct) {
            load(key, head_keys, first_tile);
            load(value, head_values, first_tile);
        }

        Query<S> query[EACH];
        {
            // chunks of 16 bytes. Where 8 lanes would write to two rows, the padding counts as one:
            // their places follow each other.
            constexpr int ROW = HEAD_DIM / 8, STEP = HEAD_DIM % 64 ? ROW + 1 : ROW;
            const uint4* from = q + (static_cast<size_t>(head) * MAX_ROWS * group + first_mma_row) * ROW;
            uint4* to = reinterpret_cast<uint4*>(base + S::Q_AT);
#pragma unroll 4
            for (int i = threadIdx.x; i < ROW_TILES * 16 * STEP; i += WARPS * 32) {
                int r = i / STEP, c = i % STEP;
                if (STEP == ROW || c < ROW)
                    to[r * (ROW + 1) + c] = first_mma_row + r < end_mma_row ? from[r * ROW + c] : uint4{0, 0, 0, 0};
            }
            __syncthreads();
#pragma unroll
            for (int e = 0; e < EACH; e++)
                query[e].load(shared_address(base + S::Q_AT) + (row_warp + e * ROW_WARPS) * 16 * S::Q_STRIDE);
        }
        // Where one warp has all positions, what a row tile's state is folded into lies in shared memory: the
        // (top, sum) of a lane's two rows, and of two row tiles the lane's values.
        const auto kept_state = [&](int e) {
            const int thread = thread_from_here();
            return reinterpret_cast<float4*>(base + S::STATES_AT) + (thread / 32 * EACH + e) * 8 + thread % 32 / 4;
        };
        const auto kept = [&](int e) {
            const int thread = thread_from_here();
            return reinterpret_cast<float4*>(base + S::Q_AT) + (thread / 32 * EACH + e) * N_TILES * 32 + thread % 32;
        };
        if constexpr (EACH > 1) __syncthreads();  // q is read
        if constexpr (POSITION_WARPS == 1) {
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                if (t == 0) *kept_state(e) = {-INFINITE, 0, -INFINITE, 0};
                if constexpr (EACH > 1) {
                    float4* const values = kept(e);
#pragma unroll
                    for (int n = 0; n < N_TILES; n++) values[n * 32] = {0, 0, 0, 0};
                }
            }
            __syncwarp();
        }

        // n-tiles of the folded state that are this warp's
        const int owned = N_TILES % OWN == 0 && N_TILES / OWN == POSITION_WARPS
                              ? OWN
                              : max(0, min(OWN, N_TILES - position_warp * OWN));
        const auto head_at = [&] { return static_cast<size_t>(parked.head) * capacity_tiles * S::HALF_BYTES; };
        State<OWN> folded;
        if constexpr (EACH == 1) folded.clear();
        // folds a sub-split's state into that of row tile e, where one warp has all positions
        const auto keep_folded = [&](int e, const State<N_TILES>& state) {
            float4 was = *kept_state(e);
            float top[2] = {was.x, was.z}, sum[2] = {was.y, was.w}, keep[2], add[2];
            __syncwarp();
#pragma unroll
            for (int h = 0; h < 2; h++) fold(top[h], sum[h], {state.top[h], state.sum[h]}, keep[h], add[h]);
            if (thread_from_here() % 4 == 0) *kept_state(e) = {top[0], sum[0], top[1], sum[1]};
            __syncwarp();
            float4* const values = kept(e);
#pragma unroll
            for (int n = 0; n < OWN; n++) {
                const float4 more = {state.value[n][0], state.value[n][1], state.value[n][2], state.value[n][3]};
                if constexpr (EACH == 1) {
                    fold(folded.value[n], keep, more, add);
                } else {
                    float4 was = values[n * 32];
                    float value[4] = {was.x, was.y, was.z, was.w};
                    fold(value, keep, more, add);
                    values[n * 32] = {value[0], value[1], value[2], value[3]};
                }
            }
        };
#pragma unroll 1
        for (int step_tile = split * SPLIT_TILES; step_tile < end_tile; step_tile += POSITION_WARPS * SUB_TILES) {
            if constexpr (EACH > 1) {
                if (step_tile >= direct) {
#pragma unroll
                    for (int e = 0; e < EACH; e++) {
                        if (e >= warp_each) break;
                        State<N_TILES> state;
                        state.clear();
#pragma unroll 1
                        for (int tile = step_tile; tile < min(step_tile + SUB_TILES, warp_tiles); tile++)
                            attend_gathered<S>(state, query[e], keys + head_at(), values + head_at(), rows, path,
                                               positions, tile, scale,
                                               parked.first_mma_row + (row_warp + e * ROW_WARPS) * 16, group, seen(e));
                        state.end();
                        keep_folded(e, state);
                    }
                    continue;
                }
            }
            State<N_TILES> state[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) state[e].clear();

            const int first = step_tile + position_warp * SUB_TILES;
#pragma unroll 1
            for (int tile = first; tile < min(first + SUB_TILES, end_tile); tile++) {
                if (EACH == 1 && tile >= direct) {
                    if (tile < warp_tiles)
                        attend_gathered<S>(state[0], query[0], keys + head_at(), values + head_at(), rows, path,
                                           positions, tile, scale, parked.first_mma_row + row_warp * 16, group,
                                           seen(0));
                    continue;
                }
                const bool ahead = tile + 1 < first + SUB_TILES && tile + 1 < direct && tile + 1 < warp_tiles;
                const bool masked = tile >= first_masked;

                float score[EACH][2][4] = {};
                uint32_t at = 0;
                if constexpr (S::RING) at = next();
                if (!S::RING || tile < warp_tiles) {
#pragma unroll
                    for (int k = 0; k < K_TILES; k++) {
                        uint4 b = S::RING ? load_shared(at + k * 512) : key[S::RING ? 0 : k];
#pragma unroll
                        for (int e = 0; e < EACH; e++) {
                            if (e > 0 && e >= warp_each) break;
                            uint4 a = query[e][k];
                            mma(score[e][0], a, b.x, b.y);
                            mma(score[e][1], a, b.z, b.w);
                        }
                    }
                }
                if constexpr (!S::RING)
                    if (ahead) load(key, head_keys, tile + 1);
                if constexpr (S::RING) at = next();
                if (!S::RING || tile < warp_tiles) {
                    uint4 weights[EACH];
#pragma unroll
                    for (int e = 0; e < EACH; e++)
                        weights[e] = weigh(state[e], score[e], scale, masked, tile * TILE, [&] { return seen(e); });
#pragma unroll
                    for (int k = 0; k < K_TILES; k++) {
                        uint4 b = S::RING ? load_shared(at + k * 512) : value[S::RING ? 0 : k];
#pragma unroll
                        for (int e = 0; e < EACH; e++) {
                            if (e > 0 && e >= warp_each) break;
                            mma(state[e].value[2 * k], weights[e], b.x, b.y);
                            mma(state[e].value[2 * k + 1], weights[e], b.z, b.w);
                        }
                    }
                }
                if constexpr (!S::RING)
                    if (ahead) load(value, head_values, tile + 1);
            }

#pragma unroll
            for (int e = 0; e < EACH; e++) state[e].end();
            if constexpr (POSITION_WARPS == 1) {
#pragma unroll
                for (int e = 0; e < EACH; e++)
                    if (e == 0 || e < warp_each) keep_folded(e, state[e]);
            } else {
                float keep[POSITION_WARPS][2], add[POSITION_WARPS][2];
#pragma unroll
                for (int first = 0; first < OWN; first += S::ROUND) {
                    __syncthreads();  // what was there is read
                    if (first == 0 && t == 0) {
#pragma unroll
                        for (int h = 0; h < 2; h++) states[warp * 16 + g + 8 * h] = {state[0].top[h], state[0].sum[h]};
                    }
#pragma unroll
                    for (int p = 0; p < POSITION_WARPS; p++)
#pragma unroll
                        for (int i = 0; i < S::ROUND; i++) {
                            int n = p * OWN + first + i;
                            if (first + i >= OWN || n >= N_TILES) continue;
                            const float(&v)[4] = state[0].value[n];
                            const int at = (warp * POSITION_WARPS + p) * S::ROUND + i;
                            exchange[at * 32 + lane] = {v[0], v[1], v[2], v[3]};
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
        }

        // what was waiting
        item = parked.item + gridDim.x;
        const int total = parked.total;
        splits = parked.splits, each = EACH > 1 ? parked.each : 1;
        head = parked.head, first_mma_row = parked.first_mma_row, own_splits = parked.own_splits;
        // the folded state of row tile e, in registers
        const auto recall = [&](int e) {
            float4 was = *kept_state(e);
            folded.top[0] = was.x, folded.sum[0] = was.y, folded.top[1] = was.z, folded.sum[1] = was.w;
            if constexpr (EACH > 1) {
                const float4* const values = kept(e);
#pragma unroll
                for (int n = 0; n < OWN; n++) {
                    float4 v = values[n * 32];
                    folded.value[n][0] = v.x, folded.value[n][1] = v.y;
                    folded.value[n][2] = v.z, folded.value[n][3] = v.w;
                }
            }
        };
        const int place = parked.row_group * kv_heads + head;
        const size_t stride = static_cast<size_t>(each) * ROW_WARPS * S::RECORD;  // of a split
        char* const record = partials + place * splits * stride + row_warp * S::RECORD;
        if (own_splits > 1) {
#pragma unroll 1
            for (int e = 0; e < each; e++) {
                if (first_mma_row + (row_warp + e * ROW_WARPS) * 16 >= total) break;
                if constexpr (POSITION_WARPS == 1) recall(e);
                float4* to = reinterpret_cast<float4*>(record + parked.split * stride + e * ROW_WARPS * S::RECORD);
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
        }

        const int pairs = (kv_heads * group * HEAD_DIM + PAIR - 1) / PAIR;
#pragma unroll 1
        for (int e = 0; e < each; e++) {
            const int warp_row = first_mma_row + (row_warp + e * ROW_WARPS) * 16;
            if (warp_row >= total) break;
            if (own_splits > 1) {
                folded.clear();
                // several splits' loads in flight
#pragma unroll(OWN >= 8 ? 1 : 8 / OWN)
                for (int s = 0; s < own_splits; s++) {
                    const float4* from = reinterpret_cast<float4*>(record + s * stride + e * ROW_WARPS * S::RECORD);
                    float keep[2], add[2];
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        fold(folded.top[h], folded.sum[h],
                             __ldcg(reinterpret_cast<const float2*>(from + N_TILES * 32) + g + 8 * h), keep[h], add[h]);
#pragma unroll
                    for (int i = 0; i < OWN; i++)
                        if (i < owned)
                            fold(folded.value[i], keep, __ldcg(from + (position_warp * OWN + i) * 32 + lane), add);
                }
            } else if constexpr (POSITION_WARPS == 1) {
                recall(e);
            }
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int mma_row = warp_row + g + 8 * h;
                if (mma_row >= total) continue;
                const float inverse = reciprocal_approx(folded.sum[h]);
                uint32_t word[OWN];
#pragma unroll
                for (int i = 0; i < OWN; i++)
                    word[i] = pack_f16(__fadd_rn(__fmul_rn(folded.value[i][2 * h], inverse), 0.0f),
                                        __fadd_rn(__fmul_rn(folded.value[i][2 * h + 1], inverse), 0.0f));
                const int row = mma_row / group;
                const int feature = (head * group + mma_row % group) * HEAD_DIM + position_warp * OWN * 8;
                write_row<OWN % 4 == 0 && HEAD_DIM % 32 == 0 ? 4 : OWN % 2 == 0 ? 2 : 1>(out, pairs, row, feature, word,
                                                                                       owned);
            }
        }
    }
}

}  // namespace

#define ATTENTION(HEAD_DIM, ROW_TILES)                                                                              \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, 1)                                                  \
        attention_##HEAD_DIM##_##ROW_TILES(uint32_t* out, const uint4* q, const char* keys, const char* values,     \
                                           const Rows* rows, const int* path, char* partials, unsigned* arrived,         \
                                           int kv_heads, int group, int capacity_tiles, int first_group, int groups, \
                                           float scale) {                                                           \
        attention<HEAD_DIM, ROW_TILES>(out, q, keys, values, rows, path, partials, arrived, kv_heads, group,        \
                                       capacity_tiles, first_group, groups, scale);                                 \
    }

ATTENTION(64, 1)
ATTENTION(64, 2)
ATTENTION(64, 4)
ATTENTION(64, 8)
ATTENTION(64, 16)
ATTENTION(128, 1)
ATTENTION(128, 2)
ATTENTION(128, 4)
ATTENTION(128, 8)
ATTENTION(128, 16)

// Head dimensions that are seldom met: one instance, with two row tiles a block.
ATTENTION(16, 2)
ATTENTION(32, 2)
ATTENTION(48, 2)
ATTENTION(80, 2)
ATTENTION(96, 2)
ATTENTION(112, 2)
ATTENTION(160, 2)
