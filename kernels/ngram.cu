// Prompt lookup on the device: the text so far as its own draft (src/draft/ngram.rs).
#include "commit.cuh"

namespace {

constexpr int THREADS = 512;
constexpr int PLACES = 32;  // that are tried

// Puts one continuation after the other into the tree, common beginnings once; one warp.
struct Merge {
    Tree& tree;
    int nodes;

    // The child of `parent` with this token; a new one where there is room; -2 where there is none.
    __device__ __forceinline__ int child(int parent, int token, int children, int budget) {
        const int lane = threadIdx.x;
        int siblings = 0;
        for (int first = 0; first < nodes; first += 32) {
            const int node = first + lane;
            const bool below = node < nodes && tree.parent[node] == parent;
            const unsigned same = __ballot_sync(~0u, below && tree.token[node] == token);
            if (same) return first + __ffs(same) - 1;
            siblings += __popc(__ballot_sync(~0u, below));
        }
        if (siblings >= children || nodes >= budget) return -2;
        if (lane == 0) tree.token[nodes] = token, tree.parent[nodes] = parent;
        __syncwarp();
        return nodes++;
    }
};

}  // namespace

// Proposes what followed the last n tokens where they stood before: the largest n of
// shortest..=longest first, of several places the latest. The tree, and the target's rows for it.
//
// Grid: one block of 512. Bytes: four a token of the history for each place that is tried (one, for a
// chain), and as many for each token that agrees.
// Neighbours: verify left the history and the tree's room; the target's pass reads the rows.
extern "C" __global__ void __launch_bounds__(THREADS) ngram(const Lookup* at) {
    const Lookup& look = *at;
    Sequence& s = *look.sequence;
    if (threadIdx.x == 0) s.began[0] = clock_ns();
    Growing& g = *look.growing;
    __shared__ unsigned long long found[2];
    const int depth = min(look.depth, g.depth);
    if (depth <= 0) return;
    const int length = s.length;
    const int* const history = s.history;
    const int longest = min(look.longest, length - 1), shortest = max(look.shortest, 1);
    // nodes that there may be, and whether the tree is a chain by construction
    bool chain = look.most == 0;
    long long budget = 0, width = 1;
    for (int level = 0; level < depth; level++) {
        chain &= look.children[level] == 1;
        width = min(width * look.children[level], static_cast<long long>(MAX_NODES));
        budget += width;
    }
    if (look.most > 0) budget = look.most;
    budget = min(budget, static_cast<long long>(MAX_NODES));

    Merge merge = {g.tree, 0};
    // a place's agreement, then the place
    unsigned long long last = ~0ull;
    for (int tried = 0; tried < PLACES; tried++) {
        unsigned long long* const best = &found[tried % 2];
        if (threadIdx.x == 0) *best = 0;
        __syncthreads();
        unsigned long long own = 0;
        for (int place = 1 + threadIdx.x; place < length; place += THREADS) {
            int agreed = 0;
            while (agreed < longest && agreed < place && history[place - 1 - agreed] == history[length - 1 - agreed])
                agreed++;
            const unsigned long long key = static_cast<unsigned long long>(agreed) << 32 | place;
            if (agreed >= shortest && key < last && key > own) own = key;
        }
        if (own > 0) atomicMax(best, own);
        __syncthreads();
        last = *best;
        if (last == 0) break;
        bool full = chain;
        if (threadIdx.x < 32) {
            int parent = -1;
            const int place = static_cast<int>(last & 0xffffffff);
            for (int level = 0; level < depth && place + level < length; level++) {
                const int children = look.most > 0 ? look.most : look.children[level];
                parent = merge.child(parent, history[place + level], children, static_cast<int>(budget));
                if (parent < -1) break;
            }
            full |= merge.nodes >= budget;
        }
        if (__syncthreads_or(full)) break;
    }
    if (threadIdx.x == 0) g.tree.nodes = merge.nodes;
    __syncthreads();
    fill_rows(look.rows, look.paths, g.tree, 0, g.tree.nodes, history[length - 1], length, 0);
}
