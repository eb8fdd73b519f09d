// What is read off the residual stream beside the LM head's logits.
#include "layout.cuh"
#include "ptx.cuh"
#include "reduce.cuh"

// Hidden states after the final norm: last_hidden [rows, hidden] f32 =
//
//   x / sqrt(sum of squares / hidden + eps) * gain * gain_scale
//
// x [rows, hidden] f32, gain [hidden] f32, squares [partials][MAX_ROWS] f32, added up in ascending
// order, gain_scale a power of two, the reverse of what gain was multiplied by. hidden is a multiple of 4, partials at most 64.
//
// Grid: one block for each row that the pass may have, block: 256.
// Bytes of a row: 4 * (2 * hidden + partials) read, 4 * hidden written.
// Neighbours: the last layer has written x and its partial sums.
extern "C" __global__ void __launch_bounds__(256)
    hidden(const Rows* pass, const float* x, const float* gain, const float* squares, float* last_hidden,
           int hidden, int partials, float eps, float gain_scale) {
    after_previous();
    const int row = blockIdx.x;
    if (row >= pass->rows) return;
    __shared__ float partial[64];
    if (threadIdx.x < partials) partial[threadIdx.x] = squares[threadIdx.x * MAX_ROWS + row];
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < partials; ++i) sum += partial[i];
    const float scale = gain_scale / sqrtf(sum / static_cast<float>(hidden) + eps);

    const size_t first = static_cast<size_t>(row) * hidden;
    const auto* from = reinterpret_cast<const float4*>(x + first);
    const auto* gains = reinterpret_cast<const float4*>(gain);
    auto* to = reinterpret_cast<float4*>(last_hidden + first);
    for (int i = threadIdx.x; i < hidden / 4; i += 256) {
        const float4 v = from[i];
        const float4 g = gains[i];
        to[i] = make_float4(v.x * scale * g.x, v.y * scale * g.y, v.z * scale * g.z, v.w * scale * g.w);
    }
}

// A judge on the residual stream after a layer: scores [units][MAX_ROWS] f32 =
//
//   w . x + b
//
// x [rows, hidden] f32, w [units, hidden] f32, b [units] f32; units is 1 for a linear judge, the
// width of a two-layer one. hidden is a multiple of 4.
//
// Grid: (one block for each row that the pass may have, units), block: 256.
// Order of the sum: thread t adds the products of features 4 t + 1024 n .. + 3 in ascending order
// (fma), then block_sum, then b.
// Bytes of a row and unit: 4 * (2 * hidden + 1) read, 4 written.
// Neighbours: the layer has written x; the one after it has not.
extern "C" __global__ void __launch_bounds__(256)
    judge(const Rows* pass, const float* x, const float* w, const float* b, float* scores, int hidden) {
    after_previous();
    const int row = blockIdx.x;
    const int unit = blockIdx.y;
    if (row >= pass->rows) return;
    const auto* features = reinterpret_cast<const float4*>(x + static_cast<size_t>(row) * hidden);
    const auto* weights = reinterpret_cast<const float4*>(w + static_cast<size_t>(unit) * hidden);
    float sum = 0;
    for (int i = threadIdx.x; i < hidden / 4; i += 256) {
        const float4 f = features[i];
        const float4 v = weights[i];
        sum = fmaf(v.x, f.x, sum);
        sum = fmaf(v.y, f.y, sum);
        sum = fmaf(v.z, f.z, sum);
        sum = fmaf(v.w, f.w, sum);
    }
    sum = block_sum<8>(sum);
    if (threadIdx.x == 0) scores[unit * MAX_ROWS + row] = sum + b[unit];
}
