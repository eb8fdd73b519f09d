// What a decoding step works with, and the structs that Rust fills and reads
// (src/device/cuda/verify.rs). Names and rules are those of src/verify.
#pragma once
#include "layout.cuh"

using u64 = unsigned long long;  // what atomics and 64-bit intrinsics take

constexpr int MAX_NODES = 255;  // of a token tree; with the root they are the rows of one sweep

// A proposal: parent[n] < n, -1 is the last committed token. Children of a node ascend in the order
// in which they were drafted.
struct Tree {
    int nodes;
    int token[MAX_NODES];
    int parent[MAX_NODES];
    int reserved;
};
static_assert(sizeof(Tree) == 8 + 2 * 4 * MAX_NODES, "as in verify.rs");

// Temperature, then top-k (0 keeps all), then top-p (1 keeps all).
struct Sampling {
    float temperature;
    int top_k;
    float top_p;
};

// A law over a row of logits: a token's weight is round(exp((z - max) / temperature) * 2^40) where
// (z, id) is among the kept, else 0. Kept are keys (order_key of the logit) above `key`, and those
// equal to it with an id of at most `id`.
struct Law {
    u64 total;  // of the weights; 0 is the law of no token
    float max, temperature;
    uint32_t key;
    int id;
    int only;  // the one token that has all weight, or -1
    int reserved;
};
static_assert(sizeof(Law) == 32, "as in verify.rs");

struct Policy {
    enum Rule : int { CHAIN, BLOCK, JUDGE, KL, MARGIN, TYPICAL, THRESHOLD, SGLANG, TOPK, SYNTHETIC };
    Rule rule;
    // theta | delta | ratio | eps | t | single | - | rate; and alpha | accumulated
    float a, b;
    // top-k's k; 1 for KL(R, P)
    int k;
    Sampling sampling;
    // guarded tokens, ascending
    int guards;
    const int* guard;
};
static_assert(sizeof(Policy) == 40, "as in verify.rs");

// Where a random number comes from, besides row and use.
struct Stream {
    uint32_t seed[2];
    uint32_t sequence, step;
};

// What a random number is used for.
enum Use : uint32_t { DRAFT, ACCEPT, RESIDUAL, BONUS, COIN };
constexpr int USES = 5;

// A decision that a proof makes in place of a random number, and the probability it had.
struct Choice {
    int made;  // 1 or 0 of a test, the token of a draw
    float probability;
};

enum Reason : int { ALIGNED, JUDGED, REJECTED, UNVISITED };

struct Verdict {
    enum Error : int { NONE, TARGET_LOGITS, DRAFTER_LOGITS, NOT_DRAWN, SCORE };
    Error error;
    int at;      // row, or node, of the error
    int length;  // of the accepted path
    int next;    // the target's own token after it
    int residual;  // 1: drawn after a rejection; 0: a bonus
    int path[MAX_NODES];
    Reason reason[MAX_NODES];
    float acceptability[MAX_NODES];  // NaN where the rule was not asked
};
static_assert(sizeof(Verdict) == 20 + 3 * 4 * MAX_NODES, "as in verify.rs");

// One sequence's step: all that the verification reads, and where it writes.
struct Verification {
    const Tree* tree;
    const float* target;    // [nodes + 1, target_stride] raw logits
    const Best* best;       // [nodes + 1, parts] of them, or null
    const float* drafter;   // [nodes + 1, drafter_stride] raw logits, or null
    const Best* drafter_best;  // [nodes + 1, drafter_parts], or null
    const Law* laws;        // [nodes + 1] from which each row's children were drawn, or null
    const float* scores;    // [nodes] of a judge, or null
    const Stream* stream;
    Choice* script;         // [nodes + 1, USES], or null
    Verdict* verdict;
    Policy policy;
    int vocabulary, target_stride, parts;
    int drafter_vocabulary, drafter_stride, drafter_parts;
};
static_assert(sizeof(Verification) == 10 * 8 + 40 + 6 * 4, "as in verify.rs");

// ---- drafting ----

// A tree while it grows, level by level. Rows: 0 is the last committed token, n + 1 is node n.
struct Growing {
    Tree tree;
    // rows of the level whose children come next
    int first_row, rows;
    // levels that there is room for
    int depth;
    // unusable logits were met in this row, or -1
    int failed_row;
    // blocks that are done with the level
    unsigned arrived;
    int reserved;
};
static_assert(sizeof(Growing) == sizeof(Tree) + 24, "as in step.rs");

// How one level's children are chosen.
struct Level {
    Growing* growing;
    const float* logits;  // [rows, stride], the drafter's
    const Best* best;     // [rows, parts] of the first `width` logits, or null
    Law* laws;            // [rows], written where children are sampled, or null: the best are taken
    const Stream* stream;
    int* chosen;          // [rows of the level, children + 1]: how many, then which tokens
    Sampling sampling;
    int width, stride, parts;
    int depth;     // of the level's parents: 0 is the last committed token
    int children;  // of each of them
};
static_assert(sizeof(Level) == 6 * 8 + 8 * 4, "as in step.rs");
