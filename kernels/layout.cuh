// How data lies in device memory, and the structs that Rust fills (src/device/cuda/layout.rs).
#pragma once
#include <cstddef>
#include <cstdint>

// ---- weights -------------------------------------------------------------------------------
// A matrix [N, K] in bf16, cut in tiles of 16 rows and 16 columns; N and K are padded with zeros,
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
// [rows, K] in bf16 as B operands: 8 rows of the pass are a group, 32 features a pair of k-tiles.
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

// The rows of a pass. Row r writes its key and value to slot base + r.
struct Rows {
    int rows;
    // slot of row 0
    int base;
    // positions below this lie in the slot of the same number, for every row that sees them
    int shared;
    int reserved;
    int token[MAX_ROWS];
    // row r sees the positions 0..=position[r]
    int position[MAX_ROWS];
    // position p >= shared of row r lies in slot path[path_at[r] + p - shared]
    int path_at[MAX_ROWS];
};
static_assert(sizeof(Rows) == 16 + 3 * 4 * MAX_ROWS, "as in layout.rs");

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
