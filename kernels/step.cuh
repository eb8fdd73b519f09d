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
    enum Error : int { NONE, TARGET_LOGITS, DRAFTER_LOGITS, NOT_DRAWN, SCORE, TREE };
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

// ---- a sequence that decodes ----

enum Finish : int { GOES_ON, STOPPED, AT_LENGTH, AT_CONTEXT, FAILED };

// What a sequence is between two steps. The last token has no keys and values yet.
struct Sequence {
    Stream stream;
    int length;         // committed tokens
    int limit;          // as many as were asked for
    int context;        // positions that the target has
    int draft_context;  // positions that a draft model has, or 0
    int drafted;        // tokens that the draft model's cache holds
    Finish finish;
    int reports;  // steps that were reported
    int stops;
    const int* stop;  // tokens that end it
    int* history;     // [context] the committed tokens
    u64 began[2];     // when (clock_ns) this step's draft, where it has one, and its target pass began
};
static_assert(sizeof(Sequence) == 16 + 8 * 4 + 4 * 8, "as in verify.rs");

// Levels of a step's tree: what a step commits, its path and one token more, fits a report of less than 1 KiB.
constexpr int MAX_DEPTH = 63;

// What a step tells the host.
struct Report {
    Finish finish;
    int committed;
    int nodes, depth;  // of the tree
    Verdict::Error error;
    int at;         // row, or node, of the error
    int reserved[2];
    // when (clock_ns) draft, target pass and verification began, and when this was written
    u64 began[3], ended;
    uint32_t token[MAX_DEPTH + 1];  // how it came to be (see came) in the upper four bits
    float acceptability[MAX_DEPTH + 1];
    float log_probability[MAX_DEPTH + 1];  // where they were asked for
};
static_assert(sizeof(Report) == 64 + 3 * 4 * (MAX_DEPTH + 1), "as in verify.rs");

// Why a token is committed.
enum Came : uint32_t { BY_ALIGNMENT, BY_JUDGEMENT, AS_BONUS, AS_RESIDUAL };

constexpr int RING = 4;  // reports that are kept: more than there are steps in flight

struct Growing;

// What becomes of a verdict, and where the next step finds what it begins with.
struct Commit {
    Sequence* sequence;
    Growing* growing;
    Report* ring;  // [RING], memory of the host
    Rows* rows;    // of the target
    Path* path;
    Rows* draft_rows;  // of a draft model, or null
    Path* draft_path;
    // whether tokens are reported with their log-probabilities
    int log_probabilities;
    int reserved;
};
static_assert(sizeof(Commit) == 8 * 8, "as in verify.rs");

// A judge's score of a row: products of its first matrix with the hidden states of up to three places,
// the draft model's and two of the target's.
struct Scoring {
    struct Tap {
        const float* products;  // [count, MAX_ROWS], or null
        const float* squares;   // [parts, MAX_ROWS] of the residual stream that its norm scales, or null
        int count;              // of units, or of parts of the one unit's sum
        int is_parts;
        int parts;
        float width, eps;
        int reserved;
    } tap[3];
    const float* bias;  // [units]; of two layers also the second's weights [units]
    int units;
    float last_bias;  // of a second layer
    int is_two_layer, is_importance;
};
static_assert(sizeof(Scoring) == 3 * 40 + 8 + 4 * 4, "as in verify.rs");

// One sequence's step: all that the verification reads, and where it writes.
struct Verification {
    const Tree* tree;
    const float* target;    // [nodes + 1, target_stride] raw logits
    const Best* best;       // [nodes + 1, parts] of them, or null
    const float* drafter;   // [nodes + 1, drafter_stride] raw logits, or null
    const Best* drafter_best;  // [nodes + 1, drafter_parts], or null
    const Law* laws;        // [nodes + 1] from which each row's children were drawn, or null
    const float* scores;    // [nodes] of a judge, or null
    const Scoring* scoring;  // what gives them where there are none, or null
    const Stream* stream;
    Choice* script;         // [nodes + 1, USES], or null
    Verdict* verdict;
    const Commit* commit;  // null: a verdict is all
    Policy policy;
    int vocabulary, target_stride, parts;
    int drafter_vocabulary, drafter_stride, drafter_parts;
};
static_assert(sizeof(Verification) == 12 * 8 + 40 + 6 * 4, "as in verify.rs");

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
    // nodes that the draft model reads, or has read
    int passed;
    // of each node, which row below the last committed token it was in the draft model's cache; -1
    // where it has none. Of a tree that is finished.
    int source[MAX_NODES];
    // cumulative log-probability of each node, where a tree grows best-first
    float score[MAX_NODES];
};
static_assert(sizeof(Growing) == sizeof(Tree) + 24 + 2 * 4 * MAX_NODES, "as in verify.rs");

// How one level's children are chosen.
struct Level {
    Growing* growing;
    const float* logits;  // [rows, stride], the drafter's
    const Best* best;     // [rows, parts] of the first `width` logits, or null
    Law* laws;            // [rows], written where children are sampled, or null: the best are taken
    const Stream* stream;
    int* chosen;          // [rows of the level, children + 1]: how many, then which tokens
    float* chosen_score;  // [rows of the level, children] their cumulative log-probabilities, best-first
    // the sequence, where the tree becomes rows of a pass; or null
    const Sequence* sequence;
    Rows* draft_rows;  // the level's children, for the draft model's next pass; or null
    int* draft_paths;
    Rows* rows;  // root and tree, for the target; or null
    int* paths;
    Sampling sampling;
    int width, stride, parts;
    int depth;     // of the level's parents: 0 is the last committed token
    int children;  // of each of them
    int keep;      // best-first: nodes of the tree; else 0. Logits lie by row of the level then
    int last;      // the tree is finished
};
static_assert(sizeof(Level) == 12 * 8 + 10 * 4, "as in verify.rs");

// Prompt lookup: what followed the last tokens where they stood before (src/draft/ngram.rs).
struct Lookup {
    Sequence* sequence;
    Growing* growing;
    Rows* rows;
    int* paths;
    int shortest, longest;
    int depth;
    int most;  // nodes where levels do not bound them, or 0
    int children[MAX_DEPTH + 1];  // of each node of a level
};
static_assert(sizeof(Lookup) == 4 * 8 + 4 * 4 + 4 * (MAX_DEPTH + 1), "as in verify.rs");
