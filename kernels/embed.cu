// The beginning of a pass: tokens become rows of the residual stream.
#include "layout.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

// For each row of the pass, e the embedding of its token:
//
//   x        [rows, hidden] f32        e
//   normed   [rows, hidden] B order    f16(e * gain) , the input of the first layer's norm but for
//                                      its scale; features beyond `hidden` are zero
//   squares  [1 partial][MAX_ROWS] f32 sum of e^2
//
// table: the embedding [V, hidden] in fragment order, plain rows; a tied head is this very table.
// gain: [hidden] f32. hidden is a multiple of 16, pairs = ceil(hidden / 32).
//
// Grid: one block for each row that the pass may have, block: 256. Four lanes take the 32 features
// of a pair, 16 bytes of each of its two tiles a lane, of which half are the row's.
// Order of the sum: a thread's features ascending, then block_sum.
// Bytes of a row: the table's tiles hold two rows in 16 bytes, so 128 * pairs are read for the
// 2 * hidden of the row, and 4 * hidden of gain; written 4 * hidden + 64 * pairs + 4.
// Neighbours: `pass` is filled; the first projection reads what this writes.
extern "C" __global__ void __launch_bounds__(256)
    embed(const Rows* pass, const uint4* table, const float* gain, float* x, uint4* normed, float* squares,
          unsigned long long* began, int hidden, int pairs) {
    after_previous();
    const int row = blockIdx.x;
    if (began && row == 0 && threadIdx.x == 0) *began = clock_ns();
    if (row >= pass->rows) return;
    const int token = pass->token[row];
    const int t = threadIdx.x % 4;
    const bool lower = token % 16 >= 8;  // row r of a tile: words 0, 2 where r < 8, else 1, 3
    const uint4* const tiles = table + static_cast<size_t>(token / 16) * pairs * 64 + token % 8 * 4 + t;
    uint4* const to = normed + activation_at(pairs, row / GROUP, 0) + row % GROUP * 4 + t;
    float* const x_row = x + static_cast<size_t>(row) * hidden;

    float sum = 0;
    for (int pair = threadIdx.x / 4; pair < pairs; pair += 64) {
        const uint4 even = tiles[pair * 64];
        const uint4 odd = tiles[pair * 64 + 32];
        // features 2 t, 2 t + 1 of each eight of the pair
        const uint32_t embedding[4] = {lower ? even.y : even.x, lower ? even.w : even.z,
                                       lower ? odd.y : odd.x, lower ? odd.w : odd.z};
        uint32_t scaled[4];
#pragma unroll
        for (int eight = 0; eight < 4; ++eight) {
            const int feature = pair * PAIR + eight * 8 + t * 2;
            scaled[eight] = 0;
            if (feature < hidden) {
                const float2 e = unpack_f16(embedding[eight]);
                const float2 g = *reinterpret_cast<const float2*>(gain + feature);
                *reinterpret_cast<float2*>(x_row + feature) = e;
                scaled[eight] = pack_f16(e.x * g.x, e.y * g.y);
                sum = fmaf(e.x, e.x, sum);
                sum = fmaf(e.y, e.y, sum);
            }
        }
        to[pair * 32] = make_uint4(scaled[0], scaled[1], scaled[2], scaled[3]);
    }
    sum = block_sum<8>(sum);
    if (threadIdx.x == 0) squares[row] = sum;
}
