// A level's chosen children become nodes of the tree: what the last block of draft does.
#pragma once
#include "vocabulary.cuh"

// Which row of the draft model's cache each node of a finished tree has: its own, if it was passed.
__device__ __forceinline__ void keep_sources(Growing& g) {
    for (int n = threadIdx.x; n < g.tree.nodes; n += THREADS) g.source[n] = n < g.passed ? n : -1;
}

// Puts the children of the level's `rows` rows into the tree.
__device__ __forceinline__ void append(const Level& level, int rows) {
    Growing& g = *level.growing;
    Tree& tree = g.tree;
    __shared__ int first_node[MAX_NODES + 1];
    __shared__ int nodes;
    if (threadIdx.x == 0) {
        int at = tree.nodes;
        for (int i = 0; i < rows; i++) {
            first_node[i] = at;
            at += __ldcg(level.chosen + i * (level.children + 1));
        }
        nodes = at;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * level.children; i += THREADS) {
        const int row = i / level.children, place = i % level.children;
        const int* const chosen = level.chosen + row * (level.children + 1);
        if (place >= __ldcg(chosen)) continue;
        const int node = first_node[row] + place;
        tree.token[node] = __ldcg(chosen + 1 + place);
        tree.parent[node] = g.first_row + row - 1;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        g.first_row = tree.nodes + 1;
        g.rows = nodes - tree.nodes;
        tree.nodes = nodes;
    }
    __syncthreads();
    if (level.last) keep_sources(g);
}

// Best-first: of the nodes that are there and the candidates below the level's rows, the `keep` of
// highest cumulative probability, of equals the earlier ones. Candidates among them become nodes; nodes
// that the draft model has read stay until the tree is finished.
struct Rivals {
    const Level& level;
    const Growing& g;
    int nodes, candidates;

    // An order key; 0 where there is no such rival. Nodes come first.
    __device__ __forceinline__ uint32_t key(int i) const {
        if (i < nodes) return order_key(g.score[i]);
        const int c = i - nodes, row = c / level.children, place = c % level.children;
        if (place >= __ldcg(level.chosen + row * (level.children + 1))) return 0;
        return order_key(__ldcg(level.chosen_score + c));
    }
    __device__ __forceinline__ int count() const { return nodes + candidates; }
};

__device__ __forceinline__ void append_best(const Level& level, int rows) {
    Growing& g = *level.growing;
    Tree& tree = g.tree;
    const Rivals rivals = {level, g, tree.nodes, rows * level.children};
    __shared__ unsigned reached[33];
    __shared__ int first_of[THREADS + 1];
    __shared__ int token[MAX_NODES], parent[MAX_NODES], place[MAX_NODES];
    if (threadIdx.x < 33) reached[threadIdx.x] = 0;
    __syncthreads();
    // the largest key that `keep` rivals reach, bit by bit; 0 where there are not so many
    uint32_t bar = 0;
    for (int bit = 31; bit >= 0; bit--) {
        const uint32_t tried = bar | 1u << bit;
        unsigned own = 0;
        for (int i = threadIdx.x; i < rivals.count(); i += THREADS) own += rivals.key(i) >= tried;
        if (own > 0) atomicAdd(&reached[bit], own);
        __syncthreads();
        if (reached[bit] >= static_cast<unsigned>(level.keep)) bar = tried;
    }
    unsigned above = 0;
    for (int i = threadIdx.x; i < rivals.count(); i += THREADS) above += rivals.key(i) > bar;
    if (above > 0) atomicAdd(&reached[32], above);
    __syncthreads();
    const int equals = level.keep - static_cast<int>(reached[32]);
    const auto stays = [&](int i) {
        const uint32_t key = rivals.key(i);
        if (key != bar || key == 0) return key > bar;
        int earlier = 0;
        for (int k = 0; k < i; k++) earlier += rivals.key(k) == bar;
        return earlier < equals;
    };
    // candidates that stay, in their order: each thread has some neighbours
    const int share = (rivals.candidates + THREADS - 1) / THREADS;
    const int from = rivals.nodes + min(threadIdx.x * share, rivals.candidates);
    const int to = rivals.nodes + min((threadIdx.x + 1) * share, rivals.candidates);
    int own = 0;
    for (int i = from; i < to; i++) own += stays(i);
    first_of[threadIdx.x + 1] = own;
    if (threadIdx.x == 0) first_of[0] = 0;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int t = 1; t <= THREADS; t++) first_of[t] += first_of[t - 1];
    for (int n = threadIdx.x; n < rivals.nodes; n += THREADS) place[n] = stays(n);
    __syncthreads();
    const int nodes = rivals.nodes + first_of[THREADS];
    int node = rivals.nodes + first_of[threadIdx.x];
    for (int i = from; i < to; i++) {
        if (!stays(i)) continue;
        const int c = i - rivals.nodes, row = c / level.children;
        tree.token[node] = __ldcg(level.chosen + row * (level.children + 1) + 1 + c % level.children);
        tree.parent[node] = g.first_row + row - 1;
        g.score[node] = __ldcg(level.chosen_score + c);
        place[node] = 1;
        node++;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        g.first_row = rivals.nodes + 1;
        g.rows = nodes - rivals.nodes;
        tree.nodes = nodes;
    }
    if (!level.last) return;
    for (int n = threadIdx.x; n < nodes; n += THREADS) token[n] = tree.token[n], parent[n] = tree.parent[n];
    __syncthreads();
    if (threadIdx.x > 0) return;
    int kept = 0;
    for (int n = 0; n < nodes; n++) {
        if (!place[n]) continue;
        tree.token[kept] = token[n];
        tree.parent[kept] = parent[n] < 0 ? -1 : place[parent[n]];
        g.source[kept] = n < g.passed ? n : -1;
        place[n] = kept++;
    }
    tree.nodes = kept;
}
