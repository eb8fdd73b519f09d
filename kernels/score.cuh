// A judge's score from the products that the target pass left: what src/judge makes of them, in
// float64 as there.
#pragma once
#include "step.cuh"

constexpr int MAX_UNITS = 64;  // of a judge's first matrix, MAX_WIDTH in Rust

// tanh's form of gelu.
__device__ __forceinline__ double gelu(double x) {
    return 0.5 * x * (1.0 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

// The acceptability of the token of a row of the pass; for all threads of a block alike.
__device__ __noinline__ float score(const Scoring& s, int row) {
    __shared__ double of_unit[MAX_UNITS];
    double scale[3];
#pragma unroll
    for (int t = 0; t < 3; t++) {
        const Scoring::Tap& tap = s.tap[t];
        float squares = 0.0f;
        for (int part = 0; tap.squares && part < tap.parts; part++) squares += tap.squares[part * MAX_ROWS + row];
        scale[t] = tap.squares ? 1.0f / sqrtf(squares / tap.width + tap.eps) : 1.0f;
    }
    for (int unit = threadIdx.x; unit < s.units; unit += blockDim.x) {
        double sum = 0.0;
#pragma unroll
        for (int t = 0; t < 3; t++) {
            const Scoring::Tap& tap = s.tap[t];
            if (!tap.products) continue;
            const int first = tap.is_parts ? 0 : unit, end = tap.is_parts ? tap.count : unit + 1;
            for (int i = first; i < end; i++) sum += static_cast<double>(tap.products[i * MAX_ROWS + row]) * scale[t];
        }
        sum += static_cast<double>(s.bias[unit]);
        of_unit[unit] = s.is_two_layer ? gelu(sum) * static_cast<double>(s.bias[s.units + unit]) : sum;
    }
    __syncthreads();
    double logit = 0.0;
    for (int unit = 0; unit < s.units; unit++) logit += of_unit[unit];
    logit += static_cast<double>(s.last_bias);
    __syncthreads();  // before the next row's
    return static_cast<float>(1.0 / (1.0 + exp(s.is_importance ? logit : -logit)));
}
