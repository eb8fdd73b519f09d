// From a tree to the rows of a pass, and from a verdict to what the next step begins with.
#pragma once
#include "ptx.cuh"
#include "step.cuh"

// The rows of a pass over nodes first.. of a tree below `length` committed tokens, after `root`, the
// last of these, or without it where that is negative. All threads of a block; the caller synchronises
// before.
//
// Node n lies in slot length + n. In a chain that is its position; in a tree each row names the slots
// of its own branch, which begins at position `length`.
__device__ __forceinline__ void fill_rows(Rows* to, int* paths, const Tree& tree, int first, int count, int root,
                                          int length, int logits_at) {
    bool bent = false;
    for (int n = threadIdx.x; n < tree.nodes; n += blockDim.x) bent |= tree.parent[n] != n - 1;
    const bool chain = !__syncthreads_or(bent);
    const int roots = root >= 0;
    const int rows = count + roots;
    for (int r = threadIdx.x; r < rows; r += blockDim.x) {
        const int node = first + r - roots;
        int depth = 0;
        for (int n = node; n >= 0; n = tree.parent[n]) depth++;
        to->token[r] = node >= 0 ? tree.token[node] : root;
        to->position[r] = length - 1 + depth;
        to->path_at[r] = r * (MAX_DEPTH + 1);
        if (chain) continue;
        for (int n = node, i = depth; n >= 0; n = tree.parent[n]) paths[r * (MAX_DEPTH + 1) + --i] = length + n;
    }
    if (threadIdx.x == 0) {
        to->rows = rows;
        to->base = length + first - roots;
        to->shared = chain ? length + tree.nodes : length;
        to->logits_at = logits_at;
    }
}

// One thread: a tree of no nodes, whose levels may be as deep as the sequence has room for.
__device__ __forceinline__ void begin_tree(Growing& g, const Sequence& s) {
    // the token that the target supplies comes on top of the deepest path
    int depth = min(s.limit, s.context) - s.length - 1;
    if (s.draft_context > 0) depth = min(depth, s.draft_context - s.length);
    if (s.finish != GOES_ON) depth = 0;
    g.tree.nodes = 0;
    g.first_row = 0;
    g.depth = max(depth, 0);
    g.rows = g.depth > 0;
    g.failed_row = -1;
    g.passed = 0;
}

// The rows with which a step begins: the target's root, and what a draft model has not read yet. All
// threads of a block, after begin_tree.
__device__ __forceinline__ void begin_rows(const Commit& c, const Sequence& s, const Growing& g) {
    const bool goes_on = s.finish == GOES_ON;
    if (threadIdx.x == 0) {
        Rows& to = *c.rows;
        to.rows = goes_on;
        to.base = s.length - 1;
        to.shared = s.length;
        to.logits_at = 0;
        to.token[0] = s.history[s.length - 1];
        to.position[0] = s.length - 1;
        to.path_at[0] = 0;
    }
    if (!c.draft_rows) return;
    Rows& to = *c.draft_rows;
    const int unread = g.depth > 0 ? s.length - s.drafted : 0;
    for (int r = threadIdx.x; r < unread; r += blockDim.x) {
        to.token[r] = s.history[s.drafted + r];
        to.position[r] = s.drafted + r;
        to.path_at[r] = 0;
    }
    if (threadIdx.x == 0) {
        to.rows = unread;
        to.base = s.drafted;
        to.shared = s.length;
        to.logits_at = 1 - unread;  // the last row's are those of row 0
    }
}

// Commits a verdict, reports it and prepares the next step. One block, after all others have read the
// sequence, the tree and the stream of its random numbers. `log_probability(i, token)`, asked by all
// threads, is of token i of the path and what follows it; `began` is when (clock_ns) thread 0's
// verification began.
template <typename LogProbability>
__device__ __forceinline__ void commit(const Commit& c, const Verdict& verdict, int* shared_kept,
                                       u64 began, LogProbability log_probability) {
    Sequence& s = *c.sequence;
    Growing& g = *c.growing;
    const Tree& tree = g.tree;
    Report& report = c.ring[s.reports % RING];
    const int length = s.length, nodes = tree.nodes;
    const bool failed = verdict.error != Verdict::NONE || g.failed_row >= 0;
    int& kept = *shared_kept;
    int* const depth = shared_kept + 1;
    int* const read = shared_kept + 2;
    if (threadIdx.x == 0) kept = failed ? 0 : verdict.length + 1, *depth = 0, *read = 0;
    __syncthreads();
    const auto token_at = [&](int i) { return i < verdict.length ? tree.token[verdict.path[i]] : verdict.next; };
    if (!failed) {
        for (int i = threadIdx.x; i <= verdict.length; i += blockDim.x)
            for (int k = 0; k < s.stops; k++)
                if (s.stop[k] == token_at(i)) atomicMin(&kept, i + 1);
    }
    for (int n = threadIdx.x; n < nodes; n += blockDim.x) {
        int own = 0;
        for (int at = n; at >= 0; at = tree.parent[at]) own++;
        atomicMax(depth, own);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kept; i += blockDim.x) {
        const bool drafted = i < verdict.length;
        const int node = drafted ? verdict.path[i] : 0, token = token_at(i);
        const uint32_t came = drafted ? (verdict.reason[node] == JUDGED ? BY_JUDGEMENT : BY_ALIGNMENT)
                                      : (verdict.residual ? AS_RESIDUAL : AS_BONUS);
        s.history[length + i] = token;
        report.token[i] = static_cast<uint32_t>(token) | came << 28;
        report.acceptability[i] = drafted ? verdict.acceptability[node] : NAN;
        if (i + 1 < kept) {
            c.path->slot[i] = length + verdict.path[i];
            if (c.draft_path && g.source[verdict.path[i]] >= 0) {
                c.draft_path->slot[i] = length + g.source[verdict.path[i]];
                atomicAdd(read, 1);
            }
        }
    }
    __syncthreads();
    if (c.log_probabilities) {
        for (int i = 0; i < kept; i++) {
            const float log = log_probability(i, token_at(i));
            if (threadIdx.x == 0) report.log_probability[i] = log;
        }
    }
    if (threadIdx.x == 0) {
        const bool stopped = kept > 0 && [&] {
            const int last = s.history[length + kept - 1];
            for (int k = 0; k < s.stops; k++)
                if (s.stop[k] == last) return true;
            return false;
        }();
        s.length = length + kept;
        s.finish = failed                   ? FAILED
                   : stopped                ? STOPPED
                   : s.length >= s.limit    ? AT_LENGTH
                   : s.length >= s.context  ? AT_CONTEXT
                                            : GOES_ON;
        s.stream.step++;
        s.reports++;
        c.path->nodes = max(kept - 1, 0);
        c.path->base = length;
        if (c.draft_path) {
            c.draft_path->nodes = *read;
            c.draft_path->base = length;
            // where there was room for a tree it had read all that was committed
            if (g.depth > 0) s.drafted = length + *read;
        }
        report.finish = s.finish;
        report.committed = kept;
        report.nodes = nodes;
        report.depth = *depth;
        report.error = g.failed_row >= 0 ? Verdict::DRAFTER_LOGITS : verdict.error;
        report.at = g.failed_row >= 0 ? g.failed_row : verdict.at;
        report.began[0] = s.began[0];
        report.began[1] = s.began[1];
        report.began[2] = began;
        report.ended = clock_ns();
        begin_tree(g, s);
    }
    __syncthreads();
    begin_rows(c, s, g);
}

// A step after the end: nothing is done, and the host is told why.
__device__ __forceinline__ void repeat(const Commit& c) {
    Sequence& s = *c.sequence;
    if (threadIdx.x > 0) return;
    Report& report = c.ring[s.reports % RING];
    report.finish = s.finish;
    report.committed = report.nodes = report.depth = 0;
    report.error = Verdict::NONE;
    report.began[0] = report.began[1] = report.began[2] = report.ended = 0;
    s.reports++;
    c.path->nodes = 0;
    if (c.draft_path) c.draft_path->nodes = 0;
}
