// Verification: which drafted tokens the target keeps, and what it says next. The rules and every
// order of arithmetic are those of src/verify, which this equals decision by decision, given equal
// logits and seed.
//
// A sequence is the work of a team of blocks (vocabulary.cuh), each visited row spread over all of
// them: its part stays on chip, and blocks meet at one barrier a row and one a rejected sibling.
// Bests of all rows are folded at first, so that greedy decoding and margin read nothing else.
//
// Grid: teams * size blocks that are resident together (a cooperative launch), block: 256. Team t
// has the sequences t, t + teams, ...
// Dynamic shared memory: 3 * slots * 512 bytes; a block whose part of a row is longer than `slots`
// chunks keeps it in the workspace.
//
// Bytes of a sequence: the tree; 16 for each part of each row (bests); then of the rows that the path
// visits, 4 V each time a row is read:
//   greedy, margin          none
//   sampled                 p once; q once for a rejected child (block: p and q twice)
//   typical, threshold, topk, KL at a rejected child
//                           p once more, unless it is on chip still; R once (KL)
// With a Commit, what is verified is committed (commit.cuh): the path that kv_commit takes, the
// report, and the rows of the passes that come next.
//
// Neighbours: the target's LM head wrote logits and bests, the drafter's its own; the workspace is
// this launch's.
#include "commit.cuh"
#include "reduce.cuh"
#include "score.cuh"
#include "vocabulary.cuh"

namespace {

// Children of the nodes of a tree: nodes in the order in which they were drafted, -1 after the last.
struct Children {
    const Shared& shared;
    const int nodes;

    // Fills the tables of shared memory; all threads of the block. The tree itself is not read again:
    // the first block begins the next one while others are still at work.
    static __device__ __forceinline__ void find(const Tree* tree, Shared& shared) {
        const int nodes = tree->nodes;
        const auto next = [&](int after, int parent) {
            for (int n = after + 1; n < nodes; n++)
                if (tree->parent[n] == parent) return n;
            return -1;
        };
        for (int row = threadIdx.x; row <= nodes; row += THREADS) shared.first_child[row] = next(row - 1, row - 1);
        for (int n = threadIdx.x; n < nodes; n += THREADS) {
            shared.next_sibling[n] = next(n, tree->parent[n]);
            shared.node_token[n] = tree->token[n];
        }
        __syncthreads();
    }

    // Row 0 is the last committed token, row n + 1 node n.
    __device__ __forceinline__ int first(int row) const { return shared.first_child[row]; }
    __device__ __forceinline__ int next(int node) const { return shared.next_sibling[node]; }
    __device__ __forceinline__ int token(int node) const { return shared.node_token[node]; }

    // Whether `token` is one of `count` siblings from node `first` on.
    __device__ __forceinline__ bool among(int first, int count, int token) const {
        for (int node = first, i = 0; i < count; i++, node = next(node))
            if (this->token(node) == token) return true;
        return false;
    }
};

// What the rules that ask a row know of it, each computed once.
struct Opinion {
    bool known;
    float normaliser, entropy, divergence;
};

struct Verifier {
    const Verification& v;
    Team& team;
    const Children children;
    Verdict& verdict;
    // as it was before the step is counted
    const Stream stream;
    // writes what the launch leaves
    const bool leader;
    bool failed;

    __device__ __forceinline__ Verifier(const Verification& v, Team& team)
        : v(v), team(team), children{team.shared, v.tree->nodes}, verdict(*v.verdict), stream(*v.stream),
          leader(team.rank == 0 && threadIdx.x == 0), failed(false) {}

    // ---- rows ----

    __device__ __forceinline__ Row target(int row) const {
        return {v.target + static_cast<size_t>(row) * v.target_stride, v.vocabulary};
    }
    __device__ __forceinline__ Row drafter(int row) const {
        return {v.drafter + static_cast<size_t>(row) * v.drafter_stride, v.drafter_vocabulary};
    }
    __device__ __forceinline__ Best best(int row) const { return load_best(team.space.exchange->best + row); }
    __device__ __forceinline__ Best drafter_best(int row) const {
        return load_best(team.space.exchange->drafter_best + row);
    }

    // The best of every row of the target's logits and, where the rule asks, of the drafter's: of the
    // parts that their LM heads left, or, where those left none, of the rows themselves.
    __device__ __forceinline__ void fold(int rows) {
        const int models = v.drafter && v.policy.rule == Policy::KL ? 2 : 1;
#pragma unroll 1
        for (int model = 0; model < models; model++) {
            const Best* parts = model == 0 ? v.best : v.drafter_best;
            int count = model == 0 ? v.parts : v.drafter_parts;
            if (!parts) {
                if (model > 0) team.sync();  // the parts before were read
                for (int row = 0; row < rows; row++) team.leave_part(model == 0 ? target(row) : drafter(row), row);
                team.sync();
                parts = team.space.parts, count = team.size;
            }
            fold_parts(parts, count, rows, model == 0 ? team.space.exchange->best : team.space.exchange->drafter_best);
        }
        team.sync();
    }

    // One warp a row.
    __device__ __forceinline__ void fold_parts(const Best* parts, int count, int rows, Best* to) {
        for (int row = team.rank * WARPS + threadIdx.x / 32; row < rows; row += team.size * WARPS) {
            const Best best = Team::best_of_parts(parts + static_cast<size_t>(row) * count, count);
            if (threadIdx.x % 32 == 0) to[row] = best;
        }
    }

    // ---- decisions ----

    __device__ __forceinline__ void fail(Verdict::Error error, int at) {
        failed = true;
        if (leader) verdict.error = error, verdict.at = at;
    }

    __device__ __forceinline__ bool test(int row, Use use, float probability) const {
        if (v.script) {
            Choice* const choice = v.script + row * USES + use;
            if (leader) choice->probability = probability;
            return choice->made == 1;
        }
        return admits(probability, random_word(stream, row, use));
    }

    __device__ __forceinline__ bool guarded(int token, int best) const { return is_guarded(token) || is_guarded(best); }

    __device__ __forceinline__ bool is_guarded(int token) const {
        int low = 0, high = v.policy.guards;
        while (low < high) {
            const int middle = (low + high) / 2;
            if (v.policy.guard[middle] < token) low = middle + 1;
            else high = middle;
        }
        return low < v.policy.guards && v.policy.guard[low] == token;
    }

    __device__ __forceinline__ void note(int node, Reason reason) const {
        if (leader) verdict.reason[node] = reason;
    }

    __device__ __forceinline__ void finish(int length, int next, bool residual) const {
        if (leader) verdict.length = length, verdict.next = next, verdict.residual = residual;
    }

    // A token of what is left of a law; -1 where nothing is. Good in the leader's block alone.
    template <typename Gone>
    __device__ __forceinline__ int draw(int row, Use use, const Law& law, u64 total, int removed, Gone gone) const {
        const Row z = target(row);
        if (law.only < 0 && law.key > 0 && !v.script) team.leave_weights(law);  // what the cut left
        if (team.rank != 0) return -1;
        if (v.script) {
            Choice* const choice = v.script + row * USES + use;
            bool is_gone = false;
            for (int i = 0; i < removed; i++) is_gone |= gone(i) == choice->made;
            if (leader)
                choice->probability = ratio(is_gone ? 0 : integer(weight(law, choice->made, z[choice->made])), total);
            return choice->made;
        }
        return team.draw(z, law, total, removed, gone, random_word(stream, row, use));
    }

    // A token of the residual in the slice; for the whole team.
    __device__ __forceinline__ int draw_residual(int row, Use use, const float* sums, float total) const {
        if (!v.script) return team.draw_residual(sums, total, random_word(stream, row, use));
        Choice* const choice = v.script + row * USES + use;
        const int chunk = choice->made / CHUNK;
        if (team.owns(chunk) && threadIdx.x % 32 == 0)
            choice->probability = team.slice[chunk / team.size * CHUNK + choice->made % CHUNK] / total;
        return choice->made;
    }

    // ---- residuals ----

    // The drafter's law of a row's children, less those that were taken out.
    struct Draft {
        Law law;
        u64 total;
        int removed;
    };

    // A law's sampled children, and what rejections have left of the target's law.
    struct Sampled {
        Draft q;
        int first;    // child of the row
        int pending;  // a child that was rejected, but not yet subtracted; or -1
        // the slice holds a residual, `total` is its sum
        bool has_residual;
        float total;
        const float* sums;  // by chunk; null where other sums took their place
        int at_turn;        // which values at the row's children are the residual's
    };

    // What is left of a token's weight in q.
    __device__ __forceinline__ u64 weight_left(const Sampled& s, int row, int token) const {
        if (children.among(s.first, s.q.removed, token)) return 0;
        return weight_in(s.q.law, row, token);
    }

    __device__ __forceinline__ u64 weight_in(const Law& q, int row, int token) const {
        return integer(weight(q, token, q.only < 0 ? drafter(row)[token] : 0.0f));
    }

    // The next slice becomes max(p - q, 0) of this block's part, and its sums are left. p is what the
    // slice holds over its total: a residual, or a row of which there is a law, then times scale.
    // Bytes: the row of q once, and none where `again` says that it was read since the row began.
    template <typename Gone>
    __device__ __forceinline__ void subtract(int row, bool residual, const Law& p, float scale, float p_total,
                                             const Draft& q, bool again, Gone gone) {
        const Row zq = q.law.only < 0 ? drafter(row) : Row{nullptr, 0};
        const float q_total = __ull2float_rn(q.total);
        team.each_chunk([&](int chunk, int place) {
            const int id = Team::first_id(chunk);
            const float4 a = team.four(team.slice, place);
            const float4 b = again ? team.four(team.drafter_slice, place) : zq.four(id);
            if (!again) team.four(team.drafter_slice, place) = b;
            const float of_p[4] = {a.x, a.y, a.z, a.w}, of_q[4] = {b.x, b.y, b.z, b.w};
            float left[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float value = residual ? of_p[i] / p_total : scale * (weight(p, id + i, of_p[i]) / p_total);
                const float w = q.total > 0 && !gone(id + i) ? weight(q.law, id + i, of_q[i]) : 0.0f;
                const float less = w > 0.0f ? w / q_total : 0.0f;
                left[i] = value > less ? value - less : 0.0f;
            }
            const float4 four = {left[0], left[1], left[2], left[3]};
            team.four(team.next_slice, place) = four;
            team.leave_sum(0, chunk, four);
        });
    }

    __device__ __forceinline__ void swap_slices() const {
        float* const other = team.slice;
        team.slice = team.next_slice;
        team.next_slice = other;
    }

    // p becomes norm(max(p - q, 0)), unless that has no mass; then q loses the child. One barrier; none
    // where p is one token, which a residual leaves as it is.
    __device__ __forceinline__ void settle(int row, const Law& p, Sampled& s) {
        if (s.pending < 0) return;
        if (p.only < 0) {
            const auto gone = [&](int id) { return s.q.removed > 0 && children.among(s.first, s.q.removed, id); };
            subtract(row, s.has_residual, p, 1.0f, s.has_residual ? s.total : __ull2float_rn(p.total), s.q,
                     s.q.removed > 0, gone);
            // what the children that follow will be asked about
            const int turn = s.at_turn ^ 1;
            __syncwarp();
            for (int node = children.next(s.pending); node >= 0; node = children.next(node)) {
                const int token = children.token(node), chunk = token / CHUNK;
                if (team.owns(chunk) && threadIdx.x % 32 == 0)
                    team.space.exchange->at_node[turn][node] =
                        team.next_slice[chunk / team.size * CHUNK + token % CHUNK];
            }
            team.sync();
            const float* const sums = team.sums(0);
            const float total = team.total(sums);
            team.next_sums();  // some may still be reading these
            s.sums = nullptr;
            if (total > 0.0f) {
                swap_slices();
                s.has_residual = true;
                s.total = total;
                s.sums = sums;
                s.at_turn = turn;
            }
        }
        s.q.total -= weight_left(s, row, children.token(s.pending));
        s.q.removed++;
        s.pending = -1;
    }

    // The sums of the residual in the slice, where others took their place.
    __device__ __forceinline__ void renew(Sampled& s) {
        if (s.sums) return;
        team.each_chunk([&](int chunk, int place) { team.leave_sum(0, chunk, team.four(team.slice, place)); });
        team.sync();
        s.sums = team.sums(0);
        team.total(s.sums);
    }

    // ---- the rules' second chance ----

    // The sums that the rule needs of a row, in one sweep over it: from the slice where that is `raw`,
    // else from memory.
    __device__ __forceinline__ void opinion(int row, bool raw, Opinion& o) {
        o.known = true;
        const Policy& policy = v.policy;
        const Row z = target(row);
        const float top = best(row).value;
        const bool kl = policy.rule == Policy::KL;
        const bool entropy = policy.rule == Policy::TYPICAL;
        Row zr = {nullptr, 0};
        int shared_ids = 0;
        float p_top = top, r_top = 0.0f;
        bool apart = false;
        if (kl) {
            zr = drafter(row);
            shared_ids = min(z.width, zr.width);
            const Best of_drafter = drafter_best(row);
            if (!usable(of_drafter)) return fail(Verdict::DRAFTER_LOGITS, row);
            r_top = of_drafter.value;
            // a best token that the other row lacks: the best of the part that both have
#pragma unroll 1
            for (int model = 0; model < 2; model++) {
                if ((model == 0 ? best(row) : of_drafter).token < shared_ids) continue;
                const float top = top_of(model == 0 ? z.z : zr.z, shared_ids);
                if (model == 0) p_top = top;
                else r_top = top;
                apart |= top == -INFINITY;
            }
        }
        const bool reverse = policy.k == 1;
        team.each_chunk([&](int chunk, int place) {
            const int id = Team::first_id(chunk);
            const float4 a = raw ? team.four(team.slice, place) : z.four(id);
            const float4 b = zr.four(id);
            const float of_p[4] = {a.x, a.y, a.z, a.w}, of_r[4] = {b.x, b.y, b.z, b.w};
            float whole[4], of_entropy[4], p_part[4], r_part[4], both[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float d = of_p[i] - top;
                whole[i] = exp_exact(d);
                if (entropy) of_entropy[i] = whole[i] > 0.0f ? whole[i] * d : 0.0f;
                if (!kl) continue;
                const bool shared_id = id + i < shared_ids;
                const float dp = of_p[i] - p_top, dr = of_r[i] - r_top;
                const float ep = shared_id ? exp_exact(dp) : 0.0f, er = shared_id ? exp_exact(dr) : 0.0f;
                p_part[i] = ep, r_part[i] = er;
                both[i] = reverse ? (er > 0.0f ? er * (dr - dp) : 0.0f) : (ep > 0.0f ? ep * (dp - dr) : 0.0f);
            }
            team.leave_sum(0, chunk, {whole[0], whole[1], whole[2], whole[3]});
            if (entropy) team.leave_sum(1, chunk, {of_entropy[0], of_entropy[1], of_entropy[2], of_entropy[3]});
            if (!kl) return;
            team.leave_sum(1, chunk, {p_part[0], p_part[1], p_part[2], p_part[3]});
            team.leave_sum(2, chunk, {r_part[0], r_part[1], r_part[2], r_part[3]});
            team.leave_sum(3, chunk, {both[0], both[1], both[2], both[3]});
        });
        team.sync();
        float p_sum = 0.0f, r_sum = 0.0f, weighted = 0.0f;
#pragma unroll 1
        for (int which = 0; which < (kl ? 4 : entropy ? 2 : 1); which++) {
            const float sum = team.total(team.sums(which));
            if (which == 0) o.normaliser = sum;
            else if (which == 1) p_sum = sum;
            else if (which == 2) r_sum = sum;
            else weighted = sum;
        }
        if (entropy) o.entropy = ln_exact(o.normaliser) - p_sum / o.normaliser;
        if (kl) {
            const float ln_p = ln_exact(p_sum), ln_r = ln_exact(r_sum);
            o.divergence = apart     ? INFINITY
                           : reverse ? weighted / r_sum - ln_r + ln_p
                                     : weighted / p_sum - ln_p + ln_r;
        }
        team.next_sums();
    }

    // The best of a row's first logits.
    __device__ __forceinline__ float top_of(const float* z, int width) {
        float top = -INFINITY;
        team.each_of((width + CHUNK - 1) / CHUNK, [&](int chunk, int) {
            const int id = Team::first_id(chunk);
            const float4 four = Row{z, width}.four(id);
            top = fmaxf(top, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
        });
        // keys are integers, of which blocks find the most
        const uint32_t key = __reduce_max_sync(~0u, order_key(top));
        if (threadIdx.x % 32 == 0) atomicMax(&team.bins().count[0], key);
        const uint32_t most = __ldcg(&team.added().count[0]);
        return __uint_as_float(most >> 31 ? most ^ 0x80000000u : ~most);
    }

    // How many tokens the target prefers to each of the row's first `count` children, for all of them
    // in one sweep; at the bins of the turn.
    __device__ __forceinline__ const Bins& ranks(int row, bool raw, int first, int count) {
        const Row z = target(row);
        // the children's own logits, which every chunk is compared with
        float* const logits = team.shared.level[0];
        static_assert(sizeof(team.shared.level) >= MAX_NODES * sizeof(float) && THREADS >= MAX_NODES, "one a thread");
        __syncthreads();
        for (int node = first, i = 0; i < count; i++, node = children.next(node))
            if (threadIdx.x == i) logits[i] = z[children.token(node)];
        __syncthreads();
        team.each_chunk([&](int chunk, int place) {
            const int id = Team::first_id(chunk);
            const float4 a = raw ? team.four(team.slice, place) : z.four(id);
            const float of_p[4] = {a.x, a.y, a.z, a.w};
            for (int node = first, i = 0; i < count; i++, node = children.next(node)) {
                const int token = children.token(node);
                const float own = logits[i];
                int here = 0;
#pragma unroll
                for (int j = 0; j < 4; j++)
                    here += id + j < z.width && (of_p[j] > own || (of_p[j] == own && id + j < token));
                here = __reduce_add_sync(~0u, here);
                if (threadIdx.x % 32 == 0 && here > 0) atomicAdd(&team.bins().count[i], static_cast<unsigned>(here));
            }
        });
        return team.added();
    }

    // The most acceptable of the row's first `count` children, all rejected, if it reaches the
    // rule's threshold; -1 where none does.
    __device__ __forceinline__ int second_chance(int row, bool raw, int first, int count) {
        const Policy& policy = v.policy;
        const Row z = target(row);
        const Best top = best(row);
        const bool asks =
            policy.rule == Policy::KL || policy.rule == Policy::TYPICAL || policy.rule == Policy::THRESHOLD;
        Opinion o = {false, 0.0f, 0.0f, 0.0f};
        const Bins* rank_bins = nullptr;
        int chosen = -1;
        float chosen_value = 0.0f, chosen_logit = 0.0f;
        for (int node = first, i = 0; i < count; i++, node = children.next(node)) {
            const int token = children.token(node);
            if (guarded(token, top.token)) continue;
            float value = -INFINITY;
            bool reached = false;
            if (asks && !o.known) {
                opinion(row, raw, o);
                if (failed) return -1;
            }
            switch (policy.rule) {
                case Policy::JUDGE:
                    value = v.scores ? v.scores[node] : score(*v.scoring, node + 1);
                    if (isnan(value)) {
                        fail(Verdict::SCORE, node);
                        return -1;
                    }
                    reached = value >= policy.a;
                    break;
                case Policy::KL:
                    if (1.0f / o.normaliser > 0.9f) break;
                    value = 0.0f - o.divergence;
                    reached = o.divergence < policy.a;
                    break;
                case Policy::MARGIN:
                    if (top.second_token != token || !(top.value > 0.0f) || top.second == -INFINITY) break;
                    value = top.second / top.value;
                    reached = value >= policy.a;
                    break;
                case Policy::TYPICAL: {
                    value = exp_exact(z[token] - top.value) / o.normaliser;
                    const float bar = policy.b * exp_exact(0.0f - o.entropy);
                    reached = value > (bar < policy.a ? bar : policy.a);
                    break;
                }
                case Policy::THRESHOLD:
                    value = exp_exact(z[token] - top.value) / o.normaliser;
                    reached = value >= policy.a;
                    break;
                case Policy::TOPK: {
                    if (!rank_bins) rank_bins = &ranks(row, raw, first, count);
                    const unsigned rank = __ldcg(&rank_bins->count[i]);
                    value = 0.0f - static_cast<float>(rank);
                    reached = rank < static_cast<unsigned>(policy.k);
                    break;
                }
                default: return -1;
            }
            if (leader) verdict.acceptability[node] = value;
            // margin rescues the runner-up alone
            const float logit = policy.rule == Policy::MARGIN ? top.second : z[token];
            if (reached && (chosen < 0 || value > chosen_value || (value == chosen_value && logit > chosen_logit)))
                chosen = node, chosen_value = value, chosen_logit = logit;
        }
        return chosen;
    }

    // ---- SGLang's pair ----

    // The probability of accepting this child once all before it were rejected.
    __device__ __forceinline__ float sglang_chance(const Law& p, float own, u64 before, u64 now) const {
        if (own >= v.policy.a) return 1.0f;
        const auto reach = [&](u64 weight) {
            const float share = __ull2float_rn(weight) / __ull2float_rn(p.total) / v.policy.b;
            return share < 1.0f ? share : 1.0f;
        };
        const float a = reach(before), b = reach(now);
        return b < 1.0f ? (b - a) / (1.0f - a) : 1.0f;
    }

    // ---- chains and trees ----

    __device__ __forceinline__ void tree() {
        const Policy& policy = v.policy;
        int row = 0, length = 0;
        while (true) {
            const Row z = target(row);
            const Best top = best(row);
            if (!usable(top)) return fail(Verdict::TARGET_LOGITS, row);
            const Law p = team.law(z, top, policy.sampling);
            const int first = children.first(row);
            // children of a drafter that samples; SGLang's rule knows the target only
            const bool samples = first >= 0 && v.laws && policy.rule != Policy::SGLANG;
            Sampled s = {{}, first, -1, false, 0.0f, nullptr, 0};
            if (samples) s.q = {v.laws[row], v.laws[row].total, 0};
            // distinct children: what is left of p. The last token with mass stays.
            u64 left = p.total, accumulated = 0;
            int spared = -1;

            int accepted = -1, tested = 0;
            for (int node = first; first >= 0; node = children.next(node)) {
                // where q has nothing left, no further child was drawn from it
                const bool end = node < 0 || (samples && s.pending >= 0 &&
                                              weight_left(s, row, children.token(s.pending)) == s.q.total);
                if (end) {
                    accepted = second_chance(row, p.only < 0 && !s.has_residual, first, tested);
                    if (failed) return;
                    if (accepted >= 0) {
                        note(accepted, JUDGED);
                        break;
                    }
                }
                if (samples) settle(row, p, s);
                if (end) break;
                const int token = children.token(node);
                // where one token has all weight, as in greedy decoding, no logit is read
                const u64 own = integer(weight(p, token, p.only < 0 ? z[token] : 0.0f));
                const bool removed = !samples && token != spared && children.among(first, tested, token);
                const bool alone = policy.rule == Policy::SYNTHETIC && !guarded(token, top.token);
                float chance = 0.0f;
                if (!alone) {
                    if (samples) {
                        const float q = ratio(weight_left(s, row, token), s.q.total);
                        if (q <= 0.0f) return fail(Verdict::NOT_DRAWN, node);
                        const float of_p = s.has_residual
                                               ? __ldcg(&team.space.exchange->at_node[s.at_turn][node]) / s.total
                                               : ratio(own, p.total);
                        chance = of_p / q;
                        chance = chance < 1.0f ? chance : 1.0f;
                    } else {
                        chance = ratio(removed ? 0 : own, left);
                    }
                    if (test(node + 1, ACCEPT, chance)) {
                        note(node, ALIGNED);
                        accepted = node;
                        break;
                    }
                }
                bool tossed = alone;
                float coin = policy.a;
                if (policy.rule == Policy::SGLANG) {
                    const u64 before = accumulated;
                    accumulated += own;
                    const float relaxed = sglang_chance(p, ratio(own, p.total), before, accumulated);
                    coin = (relaxed - chance) / (1.0f - chance);
                    tossed = !guarded(token, top.token);
                }
                if (tossed && test(node + 1, COIN, coin)) {
                    note(node, JUDGED);
                    accepted = node;
                    break;
                }
                note(node, REJECTED);
                if (samples) {
                    s.pending = node;
                } else if (!removed && own > 0) {
                    if (own < left) left -= own;
                    else spared = token;
                }
                tested++;
            }
            if (accepted >= 0) {
                if (leader) verdict.path[length] = accepted;
                length++;
                row = accepted + 1;
                continue;
            }
            const Use use = first < 0 ? BONUS : RESIDUAL;
            int next;
            if (s.has_residual) {
                renew(s);
                next = draw_residual(row, use, s.sums, s.total);
            } else {
                // each child that was taken out, once
                const auto gone = [&](int i) {
                    int node = first;
                    for (int k = 0; k < i; k++) node = children.next(node);
                    const int token = children.token(node);
                    return token == spared || children.among(first, i, token) ? -1 : token;
                };
                next = draw(row, use, p, samples ? p.total : left, samples ? 0 : tested, gone);
            }
            return finish(length, next < 0 ? top.token : next, use == RESIDUAL);
        }
    }

    // ---- block verification of a chain ----

    __device__ __forceinline__ void block() {
        const int gamma = children.nodes;
        float prefix = 1.0f, accepted_prefix = 1.0f;
        int length = 0, at = 0;
        bool decided = false;
        Law p;
        float residual;  // of row `at`, times its prefix
        while (true) {
            const Best top = best(at);
            if (!usable(top)) return fail(Verdict::TARGET_LOGITS, at);
            p = team.law(target(at), top, v.policy.sampling);
            const float scale = decided ? accepted_prefix : prefix;
            residual = 0.0f;
            if (at < gamma) {
                const Draft q = drawn_from(at);
                if (p.only >= 0) {
                    const float less = ratio(weight_in(q.law, at, p.only), q.total);
                    residual = scale > less ? scale - less : 0.0f;
                } else {
                    subtract(at, false, p, scale, __ull2float_rn(p.total), q, false, [](int) { return false; });
                    team.sync();
                    residual = team.total(team.sums(0));
                    team.next_sums();
                }
            }
            if (decided) break;
            if (at > 0) {
                const float missing = 1.0f - prefix;
                const float h = at == gamma                  ? prefix
                                : residual + missing > 0.0f ? residual / (residual + missing)
                                                            : 1.0f;
                if (test(at, ACCEPT, h)) length = at, accepted_prefix = prefix;
            }
            if (at < gamma) {
                const int token = children.token(at);
                const Draft q = drawn_from(at);
                const float drawn = ratio(weight_in(q.law, at, token), q.total);
                if (drawn <= 0.0f) return fail(Verdict::NOT_DRAWN, at);
                const u64 own = integer(weight(p, token, p.only < 0 ? target(at)[token] : 0.0f));
                const float kept = prefix * (ratio(own, p.total) / drawn);
                prefix = kept < 1.0f ? kept : 1.0f;
                // at 0 it stays, and so does every h that follows
                if (prefix > 0.0f) {
                    at++;
                    continue;
                }
            }
            decided = true;
            if (at == length) break;
            at = length;
        }
        if (leader) {
            for (int node = 0; node < length; node++) verdict.path[node] = node, verdict.reason[node] = ALIGNED;
            if (length < gamma) verdict.reason[length] = REJECTED;
        }
        const Use use = length < gamma ? RESIDUAL : BONUS;
        int next;
        if (p.only < 0 && residual > 0.0f) {
            swap_slices();
            next = draw_residual(length, use, team.last_sums(0), residual);
        } else {
            next = draw(length, use, p, p.total, 0, [](int) { return -1; });
        }
        finish(length, max(next, 0), use == RESIDUAL);
    }

    // The law that token `row` of a chain was drawn from.
    __device__ __forceinline__ Draft drawn_from(int row) const {
        const Law q = v.laws ? v.laws[row] : one_hot(children.token(row));
        return {q, q.total, 0};
    }

    // Everything about the sequence; the verdict is written when the launch is complete.
    __device__ __forceinline__ void run() {
        const u64 began = clock_ns();
        const int nodes = children.nodes;
        Children::find(v.tree, team.shared);
        if (team.rank == 0) {
            for (int n = threadIdx.x; n < nodes; n += THREADS) {
                verdict.reason[n] = UNVISITED;
                verdict.acceptability[n] = NAN;
            }
            if (leader) verdict.error = Verdict::NONE, verdict.at = 0;
        }
        fold(nodes + 1);
        v.policy.rule == Policy::BLOCK ? block() : tree();
        if (!v.commit || team.rank != 0) return;
        __syncthreads();
        // of raw logits; the team's first block reads the row alone
        const auto log_probability = [&](int i, int token) {
            const int row = i == 0 ? 0 : verdict.path[i - 1] + 1;
            const Row z = target(row);
            const float most = best(row).value;
            float sum = 0.0f;
            for (int id = threadIdx.x; id < z.width; id += THREADS) sum += exp_exact(z[id] - most);
            sum = block_sum<WARPS>(sum);
            __syncthreads();  // before the next one's
            return z[token] - most - ln_exact(sum);
        };
        commit(*v.commit, verdict, team.shared.commit, began, log_probability);
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    verify(const Verification* sequences, int count, int size, char* workspace, size_t bytes, int slots) {
    extern __shared__ float4 dynamic[];
    __shared__ Shared shared;
    const int index = blockIdx.x / size, teams = gridDim.x / size;
    bool begun = false;
    for (int i = index; i < count; i += teams) {
        const Verification& v = sequences[i];
        if (v.commit && v.commit->sequence->finish != GOES_ON) {
            if (blockIdx.x % size == 0) repeat(*v.commit);
            continue;
        }
        if (v.tree->nodes < 0) continue;  // refused: verifier.cu has said why
        const Workspace space(workspace + index * bytes, (v.vocabulary + CHUNK - 1) / CHUNK, size);
        Team team(blockIdx.x % size, size, space, shared, reinterpret_cast<float*>(dynamic), slots);
        if (begun) team.sync();  // all are done with the sequence before
        team.clear();
        begun = true;
        Verifier(v, team).run();
    }
}

// A sequence that was just put together: its first step's rows, and room for a tree. Grid: one block
// of 256.
extern "C" __global__ void __launch_bounds__(THREADS) begin(const Commit* at) {
    const Commit& c = *at;
    if (threadIdx.x == 0) begin_tree(*c.growing, *c.sequence);
    __syncthreads();
    begin_rows(c, *c.sequence, *c.growing);
}
