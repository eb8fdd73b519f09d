/* The C interface of gavel: see docs/c-interface.md. Made by cbindgen from capi/src; the test
 * tests/embedding.rs says how. Copyright of the authors of gavel, Apache-2.0. */

#ifndef GAVEL_H
#define GAVEL_H

#include <stddef.h>
#include <stdint.h>

// Done.
#define GAVEL_OK 0

// An argument, an option or an input is wrong; the message says what was found and expected.
#define GAVEL_INVALID 1

// Anything else: a file, memory, a call of the CUDA driver.
#define GAVEL_FAILED 2

// There is no CUDA driver, GPU, context or build that serves.
#define GAVEL_NO_CUDA 3

// The engine is at work, for another thread or for the one whose callback asks.
#define GAVEL_BUSY 4

// A fault of gavel itself. An engine that came to it takes no more work; close it.
#define GAVEL_PANIC 5

// Version of this header: the first number of GAVEL_ABI_VERSION changes when programs must be
// compiled anew, the last three digits when something was added.
#define GAVEL_ABI_VERSION 1000

// Drafted, and accepted by the lossless rule.
#define GAVEL_ALIGNED 0

// Drafted, and rescued by a judge rule.
#define GAVEL_JUDGED 1

// The target's own, after a path to a leaf.
#define GAVEL_BONUS 2

// The target's own, after a rejection.
#define GAVEL_RESIDUAL 3

// A stop token was committed.
#define GAVEL_FINISH_STOP 0

// max-tokens are there.
#define GAVEL_FINISH_LENGTH 1

// The context is full.
#define GAVEL_FINISH_CONTEXT 2

// A stop string would have begun.
#define GAVEL_FINISH_STOP_STRING 3

// The callback had enough.
#define GAVEL_FINISH_CALLER 4

// Nodes of a tree at most.
#define GAVEL_MAX_NODES 255

// Hidden states of a token that a judge reads at most.
#define GAVEL_MAX_PARTS 3

// Tokens of a vocabulary at most.
#define GAVEL_MAX_VOCABULARY (1 << 23)

// Lossless: chains and trees.
#define GAVEL_RULE_CHAIN 0

// Lossless block verification of a chain.
#define GAVEL_RULE_BLOCK 1

// A judge's score reaches `threshold`.
#define GAVEL_RULE_JUDGE 2

// KL(target, drafter) is below `threshold` nats; with `k` = 1, KL(drafter, target).
#define GAVEL_RULE_KL 3

// The runner-up's raw logit over the best one's reaches `threshold`.
#define GAVEL_RULE_MARGIN 4

// P is above min(`threshold`, `second` * exp(-H)).
#define GAVEL_RULE_TYPICAL 5

// P reaches `threshold`.
#define GAVEL_RULE_THRESHOLD 6

// SGLang's pair: `threshold` for one token, `second` for what accumulates.
#define GAVEL_RULE_SGLANG 7

// Among the target's `k` best.
#define GAVEL_RULE_TOPK 8

// A coin with probability `threshold`.
#define GAVEL_RULE_SYNTHETIC 9

// The children of every node were drawn from the law of `draft_logits` under `draft_sampling`,
// without replacement and in the order of their nodes. Without it they are distinct tokens that a
// deterministic drafter chose.
#define GAVEL_SAMPLED_CHILDREN 1

// Adds 1 to `random->step` once it is read, so that what is replayed never uses a number twice.
#define GAVEL_ADVANCE_STEP 2

// Accepted by the lossless rule.
#define GAVEL_NODE_ALIGNED 0

// Accepted by a lossy rule where the lossless one would not have.
#define GAVEL_NODE_JUDGED 1

// Tested and not accepted.
#define GAVEL_NODE_REJECTED 2

// Not looked at.
#define GAVEL_NODE_UNVISITED 3

// Verified.
#define GAVEL_VERDICT_OK 0

// Row `at` of the target's logits has a NaN, +infinity, or nothing but -infinity.
#define GAVEL_VERDICT_TARGET_LOGITS 1

// Row `at` of the drafter's logits has.
#define GAVEL_VERDICT_DRAFTER_LOGITS 2

// Node `at` cannot have been drawn as GAVEL_SAMPLED_CHILDREN says.
#define GAVEL_VERDICT_NOT_DRAWN 3

// The score of node `at` is NaN.
#define GAVEL_VERDICT_SCORE 4

// Node `at` has a parent that is not before it (block: that is not the node before), or a token
// outside the vocabulary; or the tree has `at` nodes, fewer than 0 or more than `most_nodes`.
#define GAVEL_VERDICT_TREE 5

// A target with its drafter on a device, and one sequence. Used from any thread, by one at a time:
// a second one gets GAVEL_BUSY. Engines do not share anything but the pages of mapped weights;
// several may work at the same time.
typedef struct gavel_engine gavel_engine;

// A judge, from its file. Does not change: used from any thread, by any number at a time.
typedef struct gavel_judge gavel_judge;

// Options by name. Used by one thread at a time.
typedef struct gavel_options gavel_options;

// The verifier's kernels in one CUDA context. Does not change: used from any thread in which that
// context is current, by any number at a time.
typedef struct gavel_verifier gavel_verifier;

// What a function came to: one of the codes from GAVEL_OK to GAVEL_PANIC. Unknown ones are failures.
typedef int32_t gavel_status;

// What one step of a generation added. Pointers are good until the callback returns. More members
// may come at the end.
typedef struct gavel_piece {
  // Text that may be shown: whole characters, in UTF-8, ending with a zero. It lags behind the
  // tokens where a character, or what may become a stop string, is not complete; the last call
  // has no tokens and what was held back.
  const char *text;
  // Its length in bytes, without the zero.
  size_t text_bytes;
  // Token ids, `count` of them, a stop token included.
  const uint32_t *tokens;
  // `count` numbers: why each is there: GAVEL_ALIGNED, GAVEL_JUDGED, GAVEL_BONUS, GAVEL_RESIDUAL.
  const int32_t *reasons;
  // `count` numbers: what a judge rule made of each; NaN where none was asked.
  const float *acceptability;
  // Tokens.
  size_t count;
} gavel_piece;

// Takes a piece of a generation; a result other than 0 ends it. Called by the thread that
// generates, once for each step and once at the end. It must return, and may not use the engine.
typedef int32_t (*gavel_callback)(const struct gavel_piece *piece, void *user);

// What a generation took. `size` is the caller's sizeof(gavel_stats): no more is written.
typedef struct gavel_stats {
  // sizeof(gavel_stats)
  size_t size;
  // Tokens of the prompt.
  uint64_t prompt_tokens;
  // Tokens added.
  uint64_t tokens;
  // Target passes after the prompt: one a step.
  uint64_t target_passes;
  // Nodes drafted.
  uint64_t drafted;
  // Tokens by reason; aligned and judged are draft tokens kept: m is their sum over
  // target_passes.
  uint64_t aligned;
  // See aligned.
  uint64_t judged;
  // See aligned.
  uint64_t bonus;
  // See aligned.
  uint64_t residual;
  // Why it ended: GAVEL_FINISH_*.
  int32_t finish;
  // Zero.
  int32_t reserved;
  // Seconds for the prompt.
  double prefill_s;
  // Seconds from the call to the first token.
  double first_token_s;
  // Seconds from the call to the last token.
  double total_s;
  // Seconds of drafting; this and the next two by the device's own clock.
  double draft_s;
  // Seconds of target passes.
  double target_s;
  // Seconds of judging, verifying and committing.
  double verify_s;
} gavel_stats;

// A proposal, read when the verification runs. Row 0 of logits and hidden states belongs to the
// last committed token, row n + 1 to node n.
typedef struct gavel_tree {
  // How many.
  int32_t nodes;
  // Their tokens.
  int32_t token[GAVEL_MAX_NODES];
  // Their parents, each before its children; -1 is the last committed token. Children of one
  // parent stand in the order in which they were drafted.
  int32_t parent[GAVEL_MAX_NODES];
  // Zero.
  int32_t reserved;
} gavel_tree;

// Where the random numbers of a verification come from: no number is used twice as long as the
// three differ. Read when the verification runs.
typedef struct gavel_random {
  // The user's.
  uint64_t seed;
  // Which of the seed's sequences.
  uint32_t sequence;
  // Steps of the sequence so far.
  uint32_t step;
} gavel_random;

// What a verification came to. Of the arrays, `length` and `nodes` elements are written.
typedef struct gavel_verdict {
  // GAVEL_VERDICT_*; other than 0, nothing but `at` holds.
  int32_t error;
  // Which row or node is wrong.
  int32_t at;
  // Nodes accepted.
  int32_t length;
  // The target's own token after them.
  int32_t next;
  // 1: drawn after a rejection; 0: a bonus, after a node without children.
  int32_t residual;
  // The accepted nodes, root first.
  int32_t path[GAVEL_MAX_NODES];
  // GAVEL_NODE_* of every node.
  int32_t reason[GAVEL_MAX_NODES];
  // What the rule made of every node; NaN where it was not asked. Larger is better.
  float acceptability[GAVEL_MAX_NODES];
} gavel_verdict;

// A sampling law: temperature, then top-k, then top-p; all zero is greedy.
typedef struct gavel_sampling {
  // 0 is greedy.
  float temperature;
  // How many of the best tokens stay; 0 keeps all.
  uint32_t top_k;
  // The best tokens stay until they hold this share; 0 and 1 keep all.
  float top_p;
} gavel_sampling;

// One sequence to be verified. The struct itself is read during the call; what it points to, when
// the verification runs: host memory for gavel_verify, device memory for gavel_verifier_enqueue. All
// of it is float32, row major. Members that are not needed are zero.
typedef struct gavel_sequence {
  // sizeof(gavel_sequence)
  size_t size;
  // The proposal; NULL proposes nothing.
  const struct gavel_tree *tree;
  // [most_nodes + 1, logits_stride] the target's raw logits.
  const float *logits;
  // [most_nodes + 1, draft_stride] the drafter's raw logits, or logarithms of its probabilities:
  // after the token of each row, so that row 0 is what the first nodes were drafted from. Read by
  // GAVEL_RULE_KL and with GAVEL_SAMPLED_CHILDREN, at rows with children.
  const float *draft_logits;
  // [most_nodes + 1, hidden_stride] each: the hidden states that a judge reads, in the order of
  // gavel_judge_widths. The target's "final" one is the one after its last norm.
  const float *hidden[GAVEL_MAX_PARTS];
  // Scores of nodes, `most_nodes` of them, in place of `hidden`.
  const float *scores;
  // Where random numbers come from.
  struct gavel_random *random;
  // Tokens, `guard_count` of them, ascending, that no lossy rule lets in or overrides: end of sequence and
  // special ones, as a rule.
  const int32_t *guard;
  // Where the result goes.
  struct gavel_verdict *verdict;
  // Nodes that the tree may have, at most GAVEL_MAX_NODES.
  uint32_t most_nodes;
  // Ids of the target.
  uint32_t vocabulary;
  // Floats from row to row; 0 is `vocabulary`. Multiples of 4, on 16-byte boundaries, are read
  // fastest.
  uint32_t logits_stride;
  // Ids of the drafter; both share theirs from 0 on.
  uint32_t draft_vocabulary;
  // As logits_stride.
  uint32_t draft_stride;
  // As logits_stride, for each of `hidden`; 0 is the judge's width.
  uint32_t hidden_stride[GAVEL_MAX_PARTS];
  // See guard.
  uint32_t guard_count;
  // GAVEL_SAMPLED_CHILDREN, GAVEL_ADVANCE_STEP.
  uint32_t flags;
  // GAVEL_RULE_*.
  int32_t rule;
  // See the rule.
  float threshold;
  // See the rule.
  float second;
  // See the rule.
  uint32_t k;
  // The target's.
  struct gavel_sampling sampling;
  // What the drafter drew with, where children are sampled.
  struct gavel_sampling draft_sampling;
} gavel_sequence;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// GAVEL_ABI_VERSION of the library. It serves a program whose own GAVEL_ABI_VERSION / 1000 is the
// same and whose own number is not greater.
uint32_t gavel_abi_version(void);

// Version of gavel, such as "0.1.0"; never freed.
const char *gavel_version(void);

// What the last function that failed on this thread had to say, in UTF-8; "" where none did. Good
// until the next function that fails on this thread.
const char *gavel_last_error(void);

// An empty set of options; NULL where that fails.
struct gavel_options *gavel_options_new(void);

// Sets an option; a value of NULL takes it away. Names and values are those of the command line
// (`gavel generate --help`), without the dashes before them; what is a flag there is 0 or 1. For an
// engine: model (needed), draft, device, context, threads. For a generation, or for all of an
// engine's: rule, judge, at, allow-foreign-target, gamma, tree, draw, draft-temperature, guard,
// temperature, top-k, top-p, seed, sequence, chat, system, max-tokens, ignore-eos, and stop, which
// may be set several times. A tree goes before gamma. A value is looked at when it is used.
//
// # Safety
// `options` comes from gavel_options_new; name and value are NULL or end with a zero.
gavel_status gavel_options_set(struct gavel_options *options, const char *name, const char *value);

// Frees options; NULL is none.
//
// # Safety
// `options` is NULL or comes from gavel_options_new, and is not used again.
void gavel_options_free(struct gavel_options *options);

// Opens an engine. `options` are copied; those of a generation become the defaults of every
// generation.
//
// # Safety
// `options` comes from gavel_options_new, `out` is a place for a pointer, NULL after a failure.
gavel_status gavel_engine_open(const struct gavel_options *options, struct gavel_engine **out);

// What the engine runs on, for people; good as long as the engine.
//
// # Safety
// `engine` comes from gavel_engine_open.
const char *gavel_engine_device(const struct gavel_engine *engine);

// Continues a prompt, UTF-8 that ends with a zero. `options`, NULL for none, go over those of the
// engine. `callback` may be NULL, and so may `stats`.
//
// # Safety
// `engine` comes from gavel_engine_open, `options` from gavel_options_new; `callback` may be called
// with `user`; `stats` is NULL or as large as its `size` says.
gavel_status gavel_engine_generate(struct gavel_engine *engine,
                                   const struct gavel_options *options,
                                   const char *prompt,
                                   gavel_callback callback,
                                   void *user,
                                   struct gavel_stats *stats);

// As gavel_engine_generate, for a prompt of token ids.
//
// # Safety
// As of gavel_engine_generate; `tokens` holds `count` ids.
gavel_status gavel_engine_generate_tokens(struct gavel_engine *engine,
                                          const struct gavel_options *options,
                                          const uint32_t *tokens,
                                          size_t count,
                                          gavel_callback callback,
                                          void *user,
                                          struct gavel_stats *stats);

// Frees an engine; NULL is none.
//
// # Safety
// `engine` is NULL or comes from gavel_engine_open; no thread uses it, now or later.
void gavel_engine_close(struct gavel_engine *engine);

// Reads a judge's file.
//
// # Safety
// `path` ends with a zero, `out` is a place for a pointer, NULL after a failure.
gavel_status gavel_judge_open(const char *path, struct gavel_judge **out);

// The threshold of one of the judge's operating points: "f1", "r90", "mid" or "budget=B".
//
// # Safety
// `judge` comes from gavel_judge_open, `at` ends with a zero, `theta` is a place for a float.
gavel_status gavel_judge_theta(const struct gavel_judge *judge, const char *at, float *theta);

// The widths of the hidden states that a judge reads, in the order in which gavel_sequence has them;
// 0 after the last. With two models the drafter's comes first, after its last norm; then the target's,
// in the order of the judge's taps (`gavel judge info` shows them).
//
// # Safety
// `judge` comes from gavel_judge_open, `widths` is a place for GAVEL_MAX_PARTS numbers.
gavel_status gavel_judge_widths(const struct gavel_judge *judge, uint32_t *widths);

// Frees a judge; NULL is none. Verifiers that were created with it have their own copy.
//
// # Safety
// `judge` is NULL or comes from gavel_judge_open, and is not used again.
void gavel_judge_close(struct gavel_judge *judge);

// Verifies sequences in host memory, on the calling thread: the reference, decision by decision equal
// to gavel_verifier_enqueue. What is wrong with a sequence's contents is said by its verdict.
//
// # Safety
// `judge` is NULL or comes from gavel_judge_open; `sequences` holds `count` structs as large as the
// first one's `size` says, and what they point to is as large as they say.
gavel_status gavel_verify(const struct gavel_judge *judge,
                          const struct gavel_sequence *sequences,
                          size_t count);

// Loads the verifier's kernels into the CUDA context that is current, and the weights of a judge,
// NULL for none. At most `most_multiprocessors` are occupied by a verification; 0 is all of them.
// Allocates and copies: call it before anything is captured.
//
// # Safety
// `judge` is NULL or comes from gavel_judge_open, `out` is a place for a pointer, NULL after a failure.
gavel_status gavel_verifier_create(const struct gavel_judge *judge,
                                   uint32_t most_multiprocessors,
                                   struct gavel_verifier **out);

// Bytes of device memory that a verification of up to `sequences` sequences of up to `vocabulary`
// tokens works in.
//
// # Safety
// `verifier` comes from gavel_verifier_create, `bytes` is a place for a number.
gavel_status gavel_verifier_workspace(const struct gavel_verifier *verifier,
                                      size_t sequences,
                                      uint32_t vocabulary,
                                      size_t *bytes);

// Enqueues the verification of sequences in device memory on a stream (a CUstream, or cudaStream_t) of
// the verifier's context, which must be current: kernel launches, and nothing else. The stream may be
// capturing; see docs/c-interface.md for what a replay reads anew. The workspace is device memory that
// starts at a multiple of 256; it needs no contents, and launches that may overlap need one each.
//
// # Safety
// `verifier` comes from gavel_verifier_create; `sequences` holds `count` structs as large as the first
// one's `size` says. What they point to, and the workspace, is as large as is said and lives until the
// launches are done, every time that they run.
gavel_status gavel_verifier_enqueue(const struct gavel_verifier *verifier,
                                    const struct gavel_sequence *sequences,
                                    size_t count,
                                    void *workspace,
                                    size_t workspace_bytes,
                                    void *stream);

// Frees a verifier; NULL is none. Its launches must be done, and graphs that hold them are not
// launched again.
//
// # Safety
// `verifier` is NULL or comes from gavel_verifier_create, and is not used again.
void gavel_verifier_destroy(struct gavel_verifier *verifier);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GAVEL_H */
