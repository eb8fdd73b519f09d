// Drafting: from the drafter's logits to a level of the token tree.
#include "commit.cuh"
#include "grow.cuh"
#include "vocabulary.cuh"

namespace {

struct Drafter {
    const Level& level;
    Team& team;

    // Where a row's logits are.
    __device__ __forceinline__ size_t at(int row) const {
        return level.keep > 0 ? row - level.growing->first_row : row;
    }
    __device__ __forceinline__ Row logits(int row) const { return {level.logits + at(row) * level.stride, level.width}; }

    // The best of a row, of its parts or of the row itself.
    __device__ __forceinline__ Best best_of(int row) const {
        const Best* parts = level.best ? level.best + at(row) * level.parts : team.space.parts;
        const int count = level.best ? level.parts : team.size;
        if (!level.best) {
            team.leave_part(logits(row), 0);
            team.sync();
        }
        return team.better_of_block(Team::best_of_parts(parts, count, threadIdx.x / 32, WARPS));
    }

    // Children drawn from the row's law without replacement, in the order of the draws.
    __device__ __forceinline__ int sample(int row, const Best& best, int* chosen) const {
        const Row z = logits(row);
        const Law law = team.law(z, best, level.sampling);
        if (team.rank == 0 && threadIdx.x == 0) level.laws[row] = law;
        if (law.only < 0 && law.key > 0) team.leave_weights(law);  // what the cut left
        if (team.rank != 0) return 0;
        u64 left = law.total;
        int drawn = 0;
        for (; drawn < level.children; drawn++) {
            const u64 word = random_word(*level.stream, row, DRAFT, drawn);
            const int token = team.draw(z, law, left, drawn, [&](int i) { return chosen[i]; }, word);
            if (token < 0) break;
            if (threadIdx.x == 0) chosen[drawn] = token;
            __syncthreads();
            left -= integer(weight(law, token, law.only < 0 ? z[token] : 0.0f));
        }
        return drawn;
    }

    // The logarithm of what the row's softmax divides by, in the team's first block.
    __device__ __forceinline__ float log_sum_exp(int row, const Best& best) const {
        const Row z = logits(row);
        team.each_chunk([&](int chunk, int) {
            const float4 four = z.four(Team::first_id(chunk));
            team.leave_sum(0, chunk, {exp_exact(four.x - best.value), exp_exact(four.y - best.value),
                                      exp_exact(four.z - best.value), exp_exact(four.w - best.value)});
        });
        team.sync();
        const float sum = team.rank == 0 ? team.total(team.sums(0)) : 1.0f;
        team.next_sums();
        return best.value + ln_exact(sum);
    }

    // The best tokens, best first, of equals the lowest id first.
    __device__ __forceinline__ int top(int row, const Best& best, int* chosen) const {
        const int count = min(level.children, level.width);
        if (count == 1) {
            if (team.rank == 0 && threadIdx.x == 0) chosen[0] = best.token;
            return 1;
        }
        const Row z = logits(row);
        Law law = {0, best.value, 1.0f, 0, INT_MAX, -1, 0};
        team.each_chunk([&](int chunk, int place) { team.four(team.slice, place) = z.four(Team::first_id(chunk)); });
        team.cut(z, law, true, count);
        Exchange& x = *team.space.exchange;
        team.each_chunk([&](int chunk, int place) {
            const float4 four = team.four(team.slice, place);
            const float values[4] = {four.x, four.y, four.z, four.w};
            const int id = Team::first_id(chunk);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t key = order_key(values[i]);
                if (id + i >= z.width || key < law.key || (key == law.key && id + i > law.id)) continue;
                const unsigned at = atomicAdd(&team.bins().count[0], 1u);
                x.top_token[at] = id + i;
                x.top_value[at] = values[i];
            }
        });
        team.added();
        if (team.rank != 0) return 0;
        for (int i = threadIdx.x; i < count; i += THREADS) {
            const float value = __ldcg(x.top_value + i);
            const int token = __ldcg(x.top_token + i);
            int place = 0;
            for (int k = 0; k < count; k++)
                place += beats(__ldcg(x.top_value + k), __ldcg(x.top_token + k), value, token);
            chosen[place] = token;
        }
        return count;
    }
};

}  // namespace

// Chooses the children of every row of a level and puts them into the tree: drawn from the law of
// `sampling` without replacement, or the most probable. Numbers are drawn by (row, place among the
// children), so that rows do not wait for each other. Best-first, as many candidates are kept as the
// tree shall have nodes in all, by cumulative probability. A level with no rows, or beyond the depth that
// there is room for, gets none.
//
// Grid: teams * size blocks that are resident together, block: 256; team t has the level's rows t,
// t + teams, ...; the last block that is done appends to the tree. Dynamic shared memory, workspace:
// as of verify.
// Bytes of a row: its parts, 16 each; nothing else where one child is the best token; else the row
// once.
// Neighbours: the drafter's pass wrote logits and bests; the next pass of the drafter, or the
// target's, reads the rows that the last block leaves.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    draft(const Level* at, int size, char* workspace, size_t bytes, int slots) {
    extern __shared__ float4 dynamic[];
    __shared__ Shared shared;
    __shared__ bool is_last;
    const Level& level = *at;
    Growing& g = *level.growing;
    const int index = blockIdx.x / size, teams = gridDim.x / size;
    const int rows = level.depth < g.depth ? g.rows : 0, first_row = g.first_row;
    const Workspace space(workspace + index * bytes, (level.width + CHUNK - 1) / CHUNK, size);
    Team team(blockIdx.x % size, size, space, shared, reinterpret_cast<float*>(dynamic), slots);
    if (index < rows) {
        team.clear();
        team.sync();
    }
    // one best token is the first block's to find
    const bool alone = !level.laws && level.children == 1 && level.best;
    for (int i = index; i < rows && !(alone && team.rank > 0); i += teams) {
        const int row = first_row + i;
        int* const chosen = level.chosen + i * (level.children + 1);
        Drafter drafter = {level, team};
        const Best best = drafter.best_of(row);
        int count = 0;
        if (!usable(best)) {
            if (team.rank == 0 && threadIdx.x == 0) atomicMax(&g.failed_row, row);
        } else {
            count = level.laws ? drafter.sample(row, best, chosen + 1) : drafter.top(row, best, chosen + 1);
            if (level.keep > 0) {
                const float normaliser = drafter.log_sum_exp(row, best);
                const float above = row > 0 ? g.score[row - 1] : 0.0f;
                __syncthreads();
                for (int k = threadIdx.x; k < count; k += THREADS) {
                    const float own = drafter.logits(row)[chosen[1 + k]] - normaliser;
                    level.chosen_score[i * level.children + k] = above + own;
                }
            }
        }
        if (team.rank == 0 && threadIdx.x == 0) chosen[0] = count;
        if (!alone) team.sync();
    }
    // every block, for all of them have read the level that is replaced now
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicInc(&g.arrived, gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return;
    const int before = g.tree.nodes;
    __syncthreads();
    if (level.keep > 0) {
        append_best(level, rows);
    } else {
        append(level, rows);
    }
    if (!level.sequence || g.depth == 0) return;
    __syncthreads();
    const int length = level.sequence->length, nodes = g.tree.nodes;
    const int root = level.sequence->history[length - 1];
    if (level.draft_rows && level.last) {
        // all of the tree, as the target reads it: a judge reads the hidden states of both
        fill_rows(level.draft_rows, level.draft_paths, g.tree, 0, nodes, root, length, 0);
        for (int n = threadIdx.x; n < nodes; n += THREADS) g.source[n] = n;
    } else if (level.draft_rows) {
        const int logits_at = level.keep > 0 ? 0 : before + 1;
        fill_rows(level.draft_rows, level.draft_paths, g.tree, before, nodes - before, -1, length, logits_at);
        if (threadIdx.x == 0) g.passed = nodes;
    }
    if (level.rows) fill_rows(level.rows, level.paths, g.tree, 0, nodes, root, length, 0);
}
