// What becomes of the KV cache after a pass. A rollback needs no kernel: its slots are forgotten.
#include "layout.cuh"
#include "ptx.cuh"

namespace {

// Nodes whose elements a thread has under way together.
constexpr int IN_FLIGHT = 8;

}  // namespace

// Commits a path in place: in every layer and kv head, node i's key and value move from slot
// path->slot[i] to slot path->base + i.
//
//   cache  [layers][keys, values][kv_heads][capacity * head_dim] f16, a head as in layout.cuh
//
// Grid: (kv_heads, 2 * layers, ceil(head_dim / 128)), block: 128. A thread owns one feature of one
// head and moves its nodes in ascending order, eight at a time. Slots ascend and none is below its
// new place, so what eight nodes overwrite is read already or not needed any more, and no thread
// waits for another.
// Bytes: 2 read and 2 written of each element that changes its slot. Nodes in their place already,
// as in a chain, cost nothing but the reading of their slot's number.
// Neighbours: the pass whose rows these are is complete, and the next one has not begun.
extern "C" __global__ void __launch_bounds__(128)
    kv_commit(unsigned char* cache, const Path* path, int capacity, int head_dim) {
    after_previous();
    const int feature = blockIdx.z * 128 + threadIdx.x;
    if (feature >= head_dim) return;
    const bool values = blockIdx.y % 2 == 1;
    const size_t head = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    unsigned char* const elements = cache + head * capacity * head_dim * 2;
    const auto element = [&](int slot) {
        const size_t at = values ? value_at(head_dim, slot, feature) : key_at(head_dim, slot, feature);
        return reinterpret_cast<uint16_t*>(elements + at);
    };
    const int nodes = path->nodes;
    const int base = path->base;
#pragma unroll 1
    for (int first = 0; first < nodes; first += IN_FLIGHT) {
        uint16_t moved[IN_FLIGHT];
        bool moves[IN_FLIGHT];
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
            const int node = first + i;
            const int slot = node < nodes ? path->slot[node] : 0;
            moves[i] = node < nodes && slot != base + node;
            if (moves[i]) moved[i] = *element(slot);
        }
#pragma unroll
        for (int i = 0; i < IN_FLIGHT; ++i) {
            if (moves[i]) *element(base + first + i) = moved[i];
        }
    }
}
