// The verifier alone, for an engine with a forward pass of its own (src/device/cuda/verifier.rs): what
// surrounds verify.cu where logits, hidden states and trees are another's. Enqueued in this order:
//   describe   what each sequence asks, from the launch's arguments to what verify reads
//   judge      a judge's scores of nodes, from hidden states
//   laws       the laws that children were drawn from, from the drafter's logits
//   verify     of verify.cu
// Trees and random numbers' places are read when the launch runs, so that a captured launch serves
// every step; nothing is expected of the workspace's bytes.
#include "score.cuh"
#include "vocabulary.cuh"

// What a sequence asks; addresses of device memory, null where there is nothing.
struct Ask {
    enum Flags : int { SAMPLED = 1, ADVANCES = 2 };
    const Tree* tree;
    const float* target;     // [nodes + 1, target_stride] raw logits
    const float* drafter;    // [nodes + 1, drafter_stride] raw logits
    const float* hidden[3];  // [nodes + 1, hidden_stride] what the judge reads, part by part
    const float* scores;     // [nodes] in place of those
    Stream* stream;
    Verdict* verdict;
    Policy policy;
    Sampling draft_sampling;
    int vocabulary, target_stride, drafter_vocabulary, drafter_stride;
    int hidden_stride[3];
    int most_nodes;
    int flags;
};
static_assert(sizeof(Ask) == 160, "as in verifier.rs");

// Sequences that one launch describes: their arguments lie below the limit of 4 KiB.
constexpr int ASKS = 16;
struct Asks {
    Ask ask[ASKS];
};

// Parts of the workspace, one element a sequence.
struct Places {
    Verification* verifications;
    Ask* asked;
    Tree* trees;
    Stream* streams;
    Law* laws;      // [MAX_NODES + 1] each
    float* scores;  // [MAX_NODES + 1] each
    char* teams;    // [team_count] of team_bytes
    size_t team_bytes;
    int team_count, reserved;
};
static_assert(sizeof(Places) == 9 * 8, "as in verifier.rs");

// A judge, of one layer or two: products of [units, sum of widths] with the parts of the features.
struct Head {
    const float* weights;
    const float* bias;  // [units]; of two layers also the second's weights [units]
    int width[3];
    int units;
    float last_bias;
    int is_two_layer, is_importance, reserved;
};
static_assert(sizeof(Head) == 6 * 8, "as in verifier.rs");

namespace {

// A sequence that will not be verified: says why.
__device__ __forceinline__ void refuse(Tree& tree, Verdict& verdict, Verdict::Error error, int at) {
    tree.nodes = -1;
    verdict.error = error;
    verdict.at = at;
    verdict.length = 0;
    verdict.next = -1;
    verdict.residual = 0;
}

}  // namespace

// Copies tree and place in the stream of random numbers, and refuses what is no tree: verify trusts
// them. With the first launch, the teams' barriers begin anew.
// Grid: one block of 256 a sequence, ASKS at most. Bytes of a sequence: 160, 8 and 8 a node, twice.
extern "C" __global__ void __launch_bounds__(THREADS) describe(const Asks asks, const Places places, int first) {
    __shared__ Ask ask;
    __shared__ int wrong;
    const int index = first + blockIdx.x;
    if (threadIdx.x == 0) {
        // constant indices: arguments that are indexed by a variable go to local memory
#pragma unroll
        for (int i = 0; i < ASKS; i++)
            if (blockIdx.x == i) ask = asks.ask[i];
        wrong = INT_MAX;
    }
    __syncthreads();
    if (first == 0)
        for (int team = blockIdx.x * THREADS + threadIdx.x; team < places.team_count; team += gridDim.x * THREADS) {
            Exchange* const x = reinterpret_cast<Exchange*>(places.teams + team * places.team_bytes);
            x->arrived = x->generation = 0;
        }
    Tree& tree = places.trees[index];
    const int nodes = ask.tree ? ask.tree->nodes : 0;
    const bool fits = nodes >= 0 && nodes <= ask.most_nodes;
    for (int n = threadIdx.x; fits && n < nodes; n += THREADS) {
        const int token = ask.tree->token[n], parent = ask.tree->parent[n];
        const bool is_chain = ask.policy.rule == Policy::BLOCK;
        if (token < 0 || token >= ask.vocabulary || parent < (is_chain ? n - 1 : -1) || parent >= n)
            atomicMin(&wrong, n);
        tree.token[n] = token;
        tree.parent[n] = parent;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    tree.nodes = nodes;
    tree.reserved = 0;
    if (!fits || wrong < INT_MAX) refuse(tree, *ask.verdict, Verdict::TREE, fits ? wrong : nodes);
    places.streams[index] = *ask.stream;
    if (ask.flags & Ask::ADVANCES) ask.stream->step++;
    places.asked[index] = ask;
    const bool samples = ask.flags & Ask::SAMPLED;
    float* const scores = places.scores + static_cast<size_t>(index) * (MAX_NODES + 1);
    Verification v = {};
    v.tree = &tree;
    v.target = ask.target;
    v.drafter = ask.drafter;
    v.laws = samples ? places.laws + static_cast<size_t>(index) * (MAX_NODES + 1) : nullptr;
    v.scores = ask.scores ? ask.scores : scores;
    v.stream = &places.streams[index];
    v.verdict = ask.verdict;
    v.policy = ask.policy;
    v.vocabulary = ask.vocabulary;
    v.target_stride = ask.target_stride;
    v.drafter_vocabulary = ask.drafter_vocabulary;
    v.drafter_stride = ask.drafter_stride;
    places.verifications[index] = v;
}

// A judge's score of every node, in the order of sums that src/judge states: sixteen sums of the
// products whose places are equal modulo sixteen, these first to last, then the rest. In float64.
// Grid: (most nodes, sequences), block: 16 threads a unit, 256 at most.
// Bytes: a node's hidden states and the judge's weights, once a block.
extern "C" __global__ void __launch_bounds__(THREADS) judge(const Places places, const Head head) {
    constexpr int LANES = 16;
    __shared__ double partial[THREADS];
    __shared__ double of_unit[MAX_UNITS];
    const Ask& ask = places.asked[blockIdx.y];
    const int node = blockIdx.x;
    if (ask.policy.rule != Policy::JUDGE || ask.scores || node >= places.trees[blockIdx.y].nodes) return;
    const float* row[3];
#pragma unroll
    for (int part = 0; part < 3; part++)
        row[part] = ask.hidden[part] + static_cast<size_t>(node + 1) * ask.hidden_stride[part];
    const int a = head.width[0], b = a + head.width[1], width = b + head.width[2], whole = width / LANES * LANES;
    const auto feature = [&](int i) { return i < a ? row[0][i] : i < b ? row[1][i - a] : row[2][i - b]; };
    const int groups = blockDim.x / LANES, group = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    for (int first = 0; first < head.units; first += groups) {
        const int unit = first + group;
        const float* const weights = head.weights + static_cast<size_t>(unit) * width;
        double sum = 0.0;
        if (unit < head.units) {
#pragma unroll 8
            for (int i = lane; i < whole; i += LANES)
                sum = fma(static_cast<double>(weights[i]), static_cast<double>(feature(i)), sum);
        }
        __syncthreads();  // before the next units' sums
        partial[threadIdx.x] = sum;
        __syncthreads();
        if (lane > 0 || unit >= head.units) continue;
        sum = 0.0;
        for (int i = 0; i < LANES; i++) sum += partial[threadIdx.x + i];
        for (int i = whole; i < width; i++)
            sum = fma(static_cast<double>(weights[i]), static_cast<double>(feature(i)), sum);
        sum += static_cast<double>(head.bias[unit]);
        of_unit[unit] = head.is_two_layer ? gelu(sum) * static_cast<double>(head.bias[head.units + unit]) : sum;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    double logit = 0.0;
    for (int unit = 0; unit < head.units; unit++) logit += of_unit[unit];
    logit += static_cast<double>(head.last_bias);
    const double score = 1.0 / (1.0 + exp(head.is_importance ? logit : -logit));
    places.scores[static_cast<size_t>(blockIdx.y) * (MAX_NODES + 1) + node] = static_cast<float>(score);
}

// The law of every row that has sampled children. Grid, block, shared memory and workspace: as verify's.
// Bytes: the drafter's rows that have children, twice.
extern "C" __global__ void __launch_bounds__(THREADS, 1) laws(const Places places, int count, int size, int slots) {
    extern __shared__ float4 dynamic[];
    __shared__ Shared shared;
    __shared__ int has_children[MAX_NODES + 1];
    const int index = blockIdx.x / size, teams = gridDim.x / size;
    bool begun = false;
    for (int i = index; i < count; i += teams) {
        const Ask& ask = places.asked[i];
        Tree& tree = places.trees[i];
        const int nodes = tree.nodes;
        if (!(ask.flags & Ask::SAMPLED) || nodes < 0) continue;
        const int width = min(ask.vocabulary, ask.drafter_vocabulary);
        const Workspace space(places.teams + index * places.team_bytes, (ask.vocabulary + CHUNK - 1) / CHUNK, size);
        Team team(blockIdx.x % size, size, space, shared, reinterpret_cast<float*>(dynamic), slots);
        if (begun) team.sync();  // all are done with the sequence before
        team.clear();
        begun = true;
        for (int row = threadIdx.x; row <= nodes; row += THREADS) has_children[row] = 0;
        __syncthreads();
        for (int n = threadIdx.x; n < nodes; n += THREADS) atomicExch(&has_children[tree.parent[n] + 1], 1);
        team.sync();  // the bins are clear
        Law* const to = places.laws + static_cast<size_t>(i) * (MAX_NODES + 1);
        int unusable = -1;
        for (int row = 0; row <= nodes && unusable < 0; row++) {
            if (!has_children[row]) continue;
            const Row z = {ask.drafter + static_cast<size_t>(row) * ask.drafter_stride, width};
            team.leave_part(z, 0);
            team.sync();
            const Best best = team.better_of_block(Team::best_of_parts(space.parts, size, threadIdx.x / 32, WARPS));
            team.sync();  // the parts may be overwritten
            if (usable(best)) {
                const Law law = team.law(z, best, ask.draft_sampling);
                if (team.rank == 0 && threadIdx.x == 0) to[row] = law;
            } else {
                unusable = row;
            }
        }
        // others may read the tree until here
        if (unusable >= 0) team.sync();
        if (unusable >= 0 && team.rank == 0 && threadIdx.x == 0)
            refuse(tree, *ask.verdict, Verdict::DRAFTER_LOGITS, unusable);
    }
}
