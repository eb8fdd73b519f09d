// Plays an engine with a forward pass of its own: logits and hidden states are made up here, gavel's
// verifier decides on this program's stream, in a graph that is captured once, and on host memory.
//     c++ verifier.cpp -o verifier $(pkg-config --cflags --static --libs gavel) && ./verifier JUDGE
#include <dlfcn.h>
#include <gavel.h>
#include <cstdio>
#include <cstdlib>
#include <vector>

constexpr int SEQUENCES = 3, NODES = 7, VOCABULARY = 1000, HIDDEN = 1024, STEPS = 8;

// A sequence's data, laid out alike in host and device memory.
struct Data {
    alignas(16) float logits[NODES + 1][VOCABULARY], draft[NODES + 1][VOCABULARY], hidden[NODES + 1][HIDDEN];
    gavel_tree tree;
    gavel_random random;
    gavel_verdict verdict;
};

template <typename... Args>
void cu(const char *name, Args... args) {
    static void *const library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) std::fprintf(stderr, "no CUDA driver\n"), std::exit(3);
    auto *call = reinterpret_cast<int (*)(Args...)>(dlsym(library, name));
    if (const int code = call ? call(args...) : -1) std::fprintf(stderr, "%s: %d\n", name, code), std::exit(1);
}

void check(gavel_status status) {
    if (status != GAVEL_OK) std::fprintf(stderr, "gavel: %s\n", gavel_last_error()), std::exit(1);
}

// What the forward passes of a step leave: noise about which the target and its drafter nearly agree.
void forward(Data &d, int step) {
    const auto number = [] { return 8.0f * std::rand() / RAND_MAX - 4.0f; };
    for (int row = 0; row <= NODES; row++) {
        for (int id = 0; id < VOCABULARY; id++) d.draft[row][id] = number(), d.logits[row][id] = d.draft[row][id] + number() / 8;
        for (float &h : d.hidden[row]) h = number();
        for (int id = 0; id < 4; id++) d.logits[row][(step + id) % 8] += 4.0f;
    }
    d.tree.nodes = NODES - step % 2;
    for (int n = 0; n < d.tree.nodes; n++) d.tree.token[n] = (step + n) % 8, d.tree.parent[n] = (n + 1) / 2 - 1;
}

// The same request for data in either memory: three rules, each with a seed of its own.
std::vector<gavel_sequence> requests(Data *data, const uint32_t *widths) {
    std::vector<gavel_sequence> all(SEQUENCES);
    for (int i = 0; i < SEQUENCES; i++) {
        gavel_sequence &s = all[i] = {};
        s.size = sizeof s, s.flags = GAVEL_ADVANCE_STEP;
        s.tree = &data[i].tree, s.random = &data[i].random, s.verdict = &data[i].verdict;
        s.logits = data[i].logits[0], s.draft_logits = data[i].draft[0];
        for (int part = 0; part < GAVEL_MAX_PARTS && widths[part]; part++)
            s.hidden[part] = data[i].hidden[0], s.hidden_stride[part] = HIDDEN;
        s.most_nodes = NODES, s.vocabulary = s.draft_vocabulary = VOCABULARY;
        s.rule = i == 0 ? GAVEL_RULE_CHAIN : i == 1 ? GAVEL_RULE_JUDGE : GAVEL_RULE_KL;
        s.threshold = 0.5f, s.sampling = {i == 1 ? 0.0f : 0.8f, 50, 0.95f};
    }
    return all;
}

int main(int argc, char **argv) {
    int device = 0, accepted = 0, judged = 0;
    void *context, *stream, *graph, *replay, *workspace;
    Data *ours, *theirs;
    cu("cuInit", 0u), cu("cuDeviceGet", &device, 0), cu("cuDevicePrimaryCtxRetain", &context, device);
    cu("cuCtxSetCurrent", context), cu("cuStreamCreate", &stream, 1u);
    gavel_judge *judge = nullptr;
    gavel_verifier *verifier = nullptr;
    uint32_t widths[GAVEL_MAX_PARTS];
    size_t bytes, size = SEQUENCES * sizeof(Data);
    check(gavel_judge_open(argc > 1 ? argv[1] : "models/demo/judge.safetensors", &judge));
    check(gavel_judge_widths(judge, widths)), check(gavel_verifier_create(judge, 0, &verifier));
    check(gavel_verifier_workspace(verifier, SEQUENCES, VOCABULARY, &bytes));
    cu("cuMemHostAlloc", &ours, size, 0u), cu("cuMemAlloc_v2", &theirs, size), cu("cuMemAlloc_v2", &workspace, bytes);
    std::vector<Data> host(SEQUENCES);
    for (int k = 0; k < SEQUENCES; k++) ours[k] = host[k];
    const auto asked = requests(theirs, widths), reference = requests(host.data(), widths);
    // a step: data in, verification, verdicts out; captured once
    cu("cuStreamBeginCapture_v2", stream, 1), cu("cuMemcpyHtoDAsync_v2", theirs, ours, size, stream);
    check(gavel_verifier_enqueue(verifier, asked.data(), SEQUENCES, workspace, bytes, stream));
    cu("cuMemcpyDtoHAsync_v2", ours, theirs, size, stream), cu("cuStreamEndCapture", stream, &graph);
    cu("cuGraphInstantiateWithFlags", &replay, graph, 0ull);
    for (int i = 0; i < SEQUENCES * STEPS; i++) {
        const int step = i / SEQUENCES, s = i % SEQUENCES;
        if (s == 0) {  // a new step: every sequence's data at once
            for (int k = 0; k < SEQUENCES; k++) forward(ours[k], step), ours[k].random.seed = 42 + k, host[k] = ours[k];
            cu("cuGraphLaunch", replay, stream), cu("cuStreamSynchronize", stream);
            check(gavel_verify(judge, reference.data(), SEQUENCES));
        }
        const gavel_verdict &a = ours[s].verdict, &b = host[s].verdict;
        bool same = !a.error && a.length == b.length && a.next == b.next && ours[s].random.step == step + 1u;
        for (int n = 0; n < ours[s].tree.nodes; n++) same &= a.reason[n] == b.reason[n], judged += a.reason[n] == GAVEL_NODE_JUDGED;
        if (!same) return std::fprintf(stderr, "step %d, sequence %d: device and host differ\n", step, s), 1;
        accepted += a.length;
    }
    std::printf("%d nodes accepted, %d of them judged, host and device agree\n", accepted, judged);
    gavel_verifier_destroy(verifier), gavel_judge_close(judge), cu("cuGraphExecDestroy", replay), cu("cuGraphDestroy", graph);
    cu("cuMemFree_v2", workspace), cu("cuMemFree_v2", theirs), cu("cuMemFreeHost", ours), cu("cuStreamDestroy_v2", stream);
}
