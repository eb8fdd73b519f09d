// How data lies in device memory, and the structs that Rust fills (src/device/cuda/layout.rs).
#pragma once
#include <cstddef>
#include <cstdint>

// ---- weights -------------------------------------------------------------------------------
// A matrix [N, K] in f16, cut in tiles of 16 rows and 16 columns; N and K are padded with zeros,
// N to whole tiles and K to whole pairs of tiles. A tile is 512 bytes, the A operand of
// mma.m16n8k16: lane l's eight elements are the 16 bytes at 16 l. Tiles of one row of tiles follow
// each other: tile (i, j) is tile i * k_tiles + j of the matrix.
//
// Which row of the matrix is row r of tile i ("packed row"):
//   plain        16 i + r
//   qkv          heads of q, then k, then v; tile c of a head holds the features 8 c + r (r < 8)
//                and head_dim / 2 + 8 c + r - 8: rotary partners share a lane
//   gate and up  row 8 i + r of gate (r < 8), row 8 i + r - 8 of up

// ---- activations ---------------------------------------------------------------------------
// [rows, K] in f16 as B operands: 8 rows of the pass are a group, 32 features a pair of k-tiles.
// (group, pair, lane, 16 bytes): {b0, b1} of the even tile, then {b0, b1} of the odd one, so that
// lane 4 g + t holds row g's features 2t, 2t+1, 2t+8, 2t+9 of both. K is padded like the matrix's;
// padding is zero, rows that a pass does not have are old or zero.

constexpr int GROUP = 8;   // rows of the pass in an n-tile of mma
constexpr int PAIR = 32;   // features of a pair of k-tiles

// Bytes of one group's pair.
constexpr int PAIR_BYTES = 512;

// Index of (group, pair) in units of 16 bytes, lane 0.
__host__ __device__ constexpr size_t activation_at(int pairs, int group, int pair) {
    return (static_cast<size_t>(group) * pairs + pair) * 32;
}

// ---- KV cache ------------------------------------------------------------------------------
// One layer: (kv head, tile of 16 slots, k-tile of 16 features, lane, 16 bytes), keys, and the
// same for values, each operand B of its product, so that a lane reads 16 bytes:
//   keys    lane 4 g + t: {features 2t..2t+1, 2t+8..2t+9} of slot g, the same of slot 8 + g
//   values  lane 4 g + t: {slots 2t..2t+1, 2t+8..2t+9} of feature g, the same of feature 8 + g
// Slot s below the committed length holds position s.

constexpr int TILE = 16;  // slots, and features, of a tile of the cache

// Byte of feature f of slot s in a head's keys or values.
__host__ __device__ constexpr size_t key_at(int head_dim, int s, int f) {
    return ((static_cast<size_t>(s / 16) * (head_dim / 16) + f / 16) * 32 + s % 8 * 4 + f % 8 / 2) * 16 +
           s % 16 / 8 * 8 + f % 16 / 8 * 4 + f % 2 * 2;
}
__host__ __device__ constexpr size_t value_at(int head_dim, int s, int f) {
    return ((static_cast<size_t>(s / 16) * (head_dim / 16) + f / 16) * 32 + f % 8 * 4 + s % 8 / 2) * 16 +
           f % 16 / 8 * 8 + s % 16 / 8 * 4 + s % 2 * 2;
}

// ---- a pass --------------------------------------------------------------------------------

constexpr int MAX_ROWS = 256;  // rows that one sweep over the weights serves

// The rows of a pass. Row r writes its key and value to slot base + r. A pass of no rows reads
// nothing but their number and writes nothing.
struct Rows {
    int rows;
    // slot of row 0
    int base;
    // positions below this lie in the slot of the same number, for every row that sees them
    int shared;
    // row r has its logits in row r + logits_at of the buffer, and none where that is negative
    int logits_at;
    int token[MAX_ROWS];
    // row r sees the positions 0..=position[r]
    int position[MAX_ROWS];
    // position p >= shared of row r lies in slot path[path_at[r] + p - shared]
    int path_at[MAX_ROWS];
};
static_assert(sizeof(Rows) == 16 + 3 * 4 * MAX_ROWS, "as in layout.rs");

// ---- linear --------------------------------------------------------------------------------

// The best of some logits of a row and the best of the others, each the lowest id of its value. A
// NaN counts as infinity: whoever reads this alone sees that the row is of no use. Where there is
// one logit, the second is -infinity and its token INT_MAX.
struct alignas(16) Best {
    float value;
    int token;
    float second;
    int second_token;
};
static_assert(sizeof(Best) == 16, "as in layout.rs");

// The k loop of linear with NG groups of rows and WK warps along k: x comes through shared memory
// in a ring of stages of up to eight groups.
constexpr int STAGES = 3;
__host__ __device__ constexpr int linear_stage_groups(int ng) { return ng < 8 ? ng : 8; }
// pairs of k-tiles that a warp holds in registers: its loads in flight
__host__ __device__ constexpr int linear_ahead(int ng, int wk) {
    return wk == 1 ? (ng > 8 ? 2 : 4) : ng == 1 ? 4 : ng == 2 ? 2 : 1;
}
// chunks of linear_ahead * wk pairs in a stage: stages of 16 KiB, but one chunk at least; one where
// the groups do not fit one stage, since registers hold one chunk
__host__ __device__ constexpr int linear_chunks(int ng, int wk) {
    const int bytes = linear_ahead(ng, wk) * wk * linear_stage_groups(ng) * PAIR_BYTES;
    return ng > 8 || bytes >= 16384 ? 1 : 16384 / bytes;
}
__host__ __device__ constexpr int linear_stage_bytes(int ng, int wk) {
    return linear_chunks(ng, wk) * linear_ahead(ng, wk) * wk * linear_stage_groups(ng) * PAIR_BYTES;
}
// the ring, later the staged sums of all warps
__host__ __device__ constexpr int linear_loop_bytes(int ng, int wk, int warps_m) {
    const int ring = STAGES * linear_stage_bytes(ng, wk), sums = wk * warps_m * linear_stage_groups(ng) * 512;
    return ring > sums ? ring : sums;
}
// dynamic shared memory of a block: also a scale for every row, and a Best for every row tile and
// column of a stage
__host__ __device__ constexpr int linear_shared_bytes(int ng, int wk, int warps_m) {
    return linear_loop_bytes(ng, wk, warps_m) + ng * GROUP * 4 + warps_m * 8 * GROUP * static_cast<int>(sizeof(Best));
}

// One matrix, and what follows it (linear.cu).
struct Linear {
    enum Epilogue : int { RESIDUAL, SWIGLU, QKV, LOGITS };

    const uint4* weights;    // packed [row_tiles, 2 * pairs]
    const uint4* input;      // [groups, pairs, 32]
    float4* partials;        // [2 * workers, block_tiles, NG, 32]
    unsigned* counters;      // [row_tiles]
    const Rows* rows;
    const float* input_squares;  // [input_parts, MAX_ROWS], null: the output is not scaled
    const float* bias;           // [16 * row_tiles] in packed order, or null

    // residual: x [rows, width] += y; also swiglu: out is the next product's input
    float* x;
    const float* gain;   // [width], of the norm that comes next
    uint4* out;          // [groups, out_pairs, 32]
    float* squares;      // [row_tiles / part_tiles, MAX_ROWS]
    const float* judge;  // [width], gain times the judge's weights, or null
    float* dots;         // [row_tiles / part_tiles, MAX_ROWS]

    // qkv
    char* q;               // f16 [kv_heads, MAX_ROWS * group, head_dim]
    char* keys;            // of this layer
    char* values;
    const float2* angles;  // (cos, sin) [positions, head_dim / 2]
    const float* q_gain;   // [head_dim], or null: no QK-norm
    const float* k_gain;
    size_t head_bytes;     // of a head's keys in the cache

    // logits
    // row r of the pass is row r + rows->logits_at - first_row of both, if that is not negative
    float* logits;  // [.., logits_stride]
    Best* best;     // [.., row_tiles / part_tiles]

    Epilogue epilogue;
    int pairs, row_tiles, block_tiles;
    // units of every worker, and how many of the workers have one more
    int worker_units, more_units;
    // rows of the pass before 8 * first_group have no part in this product
    int first_group;
    int input_parts;
    float inverse_width, eps;
    // Powers of two that keep f16 activations in range (src/device/range.rs): swiglu's output is
    // multiplied by out_scale, residual's by `gain`, which has its own; a product by input_scale, which
    // undoes what its input was multiplied by.
    float input_scale, out_scale;
    int width, out_pairs;
    // row tiles that share a partial sum of squares, or a best logit; divides the row tiles of a block
    int part_tiles;
    int heads, kv_heads, group, head_dim;
    int first_row, vocabulary, logits_stride;
};
static_assert(sizeof(Linear) == 22 * 8 + 22 * 4, "as in linear.rs");

// ---- a commit ------------------------------------------------------------------------------

constexpr int MAX_PATH = 512;  // rows that a pass of several sweeps has at most

// A path of the last pass: node i moves from slot[i] to slot base + i; slot[i] >= base + i.
struct Path {
    int nodes;
    // committed positions before
    int base;
    // ascending
    int slot[MAX_PATH];
};
static_assert(sizeof(Path) == 8 + 4 * MAX_PATH, "as in layout.rs");
