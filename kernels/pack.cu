// Weights on their way from the file to fragment order: once, at load.
#include "layout.cuh"
#include "ptx.cuh"

namespace {

// Eight elements of a row as f16, two a word. bf16 and f32 are rounded to nearest even: a bf16 that
// is 2^-17 or more in magnitude, and no more than 65,280, stays what it is; of a smaller one, 2^-25 at
// most is lost.
struct Bf16 {
    static constexpr int VECTORS = 1;  // 16-byte vectors that hold them
    static __device__ uint32_t convert(uint32_t two) {
        return pack_f16(__uint_as_float(two << 16), __uint_as_float(two & 0xffff0000));
    }
    static __device__ void load(const uint4* from, uint32_t (&to)[4]) {
        const uint4 v = load_streaming(from);
        to[0] = convert(v.x), to[1] = convert(v.y), to[2] = convert(v.z), to[3] = convert(v.w);
    }
};

struct F16 {
    static constexpr int VECTORS = 1;
    static __device__ void load(const uint4* from, uint32_t (&to)[4]) {
        const uint4 v = load_streaming(from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
};

struct F32 {
    static constexpr int VECTORS = 2;
    static __device__ uint32_t convert(uint32_t low, uint32_t high) {
        return pack_f16(__uint_as_float(low), __uint_as_float(high));
    }
    static __device__ void load(const uint4* from, uint32_t (&to)[4]) {
        const uint4 v = load_streaming(from);
        const uint4 w = load_streaming(from + 1);
        to[0] = convert(v.x, v.y), to[1] = convert(v.z, v.w);
        to[2] = convert(w.x, w.y), to[3] = convert(w.z, w.w);
    }
};

// Words of four neighbouring lanes, transposed: lane t of the four has word t of lane s in word s.
__device__ __forceinline__ void transpose_quad(uint32_t (&word)[4], int t) {
#pragma unroll
    for (int bit = 1; bit <= 2; bit *= 2) {
#pragma unroll
        for (int low = 0; low < 4; ++low) {
            if (low & bit) continue;
            const int high = low | bit;
            const uint32_t sent = t & bit ? word[low] : word[high];
            const uint32_t got = __shfl_xor_sync(0xffffffff, sent, bit);
            if (t & bit) {
                word[low] = got;
            } else {
                word[high] = got;
            }
        }
    }
}

template <class Element>
__device__ __forceinline__ void pack(const uint4* rows, uint4* tiles, int pairs, int units) {
    const int unit = blockIdx.x * 8 + threadIdx.x / 32;
    if (unit >= units) return;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int tile = unit / pairs, pair = unit % pairs;
    // Lane 4 g + t reads features 8 t .. 8 t + 7 of the pair, of rows g and g + 8.
    const size_t row = static_cast<size_t>(pairs) * 4 * Element::VECTORS;
    const uint4* from = rows + (static_cast<size_t>(tile) * 16 + g) * row + (pair * 4 + t) * Element::VECTORS;
    uint32_t upper[4], lower[4];
    Element::load(from, upper);
    Element::load(from + 8 * row, lower);
    // Word s is now features 8 s + 2 t, 8 s + 2 t + 1: s = 0, 1 of the even tile, 2, 3 of the odd.
    transpose_quad(upper, t);
    transpose_quad(lower, t);
    uint4* to = tiles + static_cast<size_t>(unit) * 64 + lane;
    to[0] = make_uint4(upper[0], lower[0], upper[1], lower[1]);
    to[32] = make_uint4(upper[2], lower[2], upper[3], lower[3]);
}

}  // namespace

// Packs whole rows of tiles: rows [16 * tiles, 32 * pairs], row major and in packed order (the host
// has put them so, and filled up with zeros), to tiles in fragment order as layout.cuh describes.
//
// units = tiles * pairs. Grid: ceil(units / 8), block: 256; a warp packs 16 rows of 32 features.
// Bytes: every element read once, 16 bytes a lane in whole sectors, and 2 written for each, 16 bytes
// a lane and 1024 in a row by a warp.
// Neighbours: a copy from the host has filled `rows` before; the next one waits until this is done.
extern "C" __global__ void __launch_bounds__(256)
    pack_bf16_rows(const uint4* rows, uint4* tiles, int pairs, int units) {
    pack<Bf16>(rows, tiles, pairs, units);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_f16_rows(const uint4* rows, uint4* tiles, int pairs, int units) {
    pack<F16>(rows, tiles, pairs, units);
}

extern "C" __global__ void __launch_bounds__(256)
    pack_f32_rows(const uint4* rows, uint4* tiles, int pairs, int units) {
    pack<F32>(rows, tiles, pairs, units);
}
