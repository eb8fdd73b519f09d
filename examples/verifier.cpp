// Plays an engine with a forward pass of its own: logits and hidden states are made up here, gavel's
// verifier decides on this program's stream, in a graph that is captured once. Every decision is
// compared with that of the verifier on host memory.
//     c++ verifier.cpp -o verifier $(pkg-config --cflags --static --libs gavel) && ./verifier JUDGE
#include <dlfcn.h>
#include <gavel.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

constexpr int SEQUENCES = 3, NODES = 7, VOCABULARY = 1000, HIDDEN = 1024;

// A sequence's data, laid out alike in host and device memory.
struct Data {
    alignas(16) float logits[NODES + 1][VOCABULARY], draft[NODES + 1][VOCABULARY], hidden[NODES + 1][HIDDEN];
    gavel_tree tree;
    gavel_random random;
    gavel_verdict verdict;
};

void *driver() {
    static void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    return library ? library : (std::fprintf(stderr, "no CUDA driver\n"), std::exit(3), nullptr);
}

template <typename... Args>
void cu(const char *name, Args... args) {
    auto *call = reinterpret_cast<int (*)(Args...)>(dlsym(driver(), name));
    const int code = call ? call(args...) : -1;
    if (code != 0) std::fprintf(stderr, "%s: %d\n", name, code), std::exit(1);
}

void check(gavel_status status) {
    if (status != GAVEL_OK) std::fprintf(stderr, "gavel: %s\n", gavel_last_error()), std::exit(1);
}

float number() {  // -4 to 4
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(state >> 40) / (1 << 21) - 4.0f;
}

// What the forward passes of one step leave. Children are the drafter's best, here: low ids in turn.
void forward(Data &d, int step) {
    for (int row = 0; row <= NODES; row++) {
        for (int id = 0; id < VOCABULARY; id++) d.draft[row][id] = number(), d.logits[row][id] = d.draft[row][id] + number() / 8;
        for (float &h : d.hidden[row]) h = number();
        for (int id = 0; id < 4; id++) d.logits[row][(step + id) % 8] += 4.0f;
    }
    d.tree = {};
    d.tree.nodes = NODES - step % 2;
    for (int n = 0; n < d.tree.nodes; n++) d.tree.token[n] = (step + n) % 8, d.tree.parent[n] = (n + 1) / 2 - 1;
}

// The same request for data in either memory: three rules, each with a seed of its own.
std::vector<gavel_sequence> requests(Data *data, const uint32_t *widths, float theta) {
    std::vector<gavel_sequence> all(SEQUENCES);
    for (int i = 0; i < SEQUENCES; i++) {
        gavel_sequence &s = all[i] = {};
        s.size = sizeof s;
        s.tree = &data[i].tree, s.random = &data[i].random, s.verdict = &data[i].verdict;
        s.logits = &data[i].logits[0][0], s.draft_logits = &data[i].draft[0][0];
        for (int part = 0; part < GAVEL_MAX_PARTS && widths[part]; part++)
            s.hidden[part] = &data[i].hidden[0][0], s.hidden_stride[part] = HIDDEN;
        s.most_nodes = NODES, s.vocabulary = s.draft_vocabulary = VOCABULARY;
        s.flags = GAVEL_ADVANCE_STEP;
        s.rule = i == 0 ? GAVEL_RULE_CHAIN : i == 1 ? GAVEL_RULE_JUDGE : GAVEL_RULE_KL;
        s.threshold = i == 1 ? theta : 0.5f;
        s.sampling = {i == 1 ? 0.0f : 0.8f, 50, 0.95f};
    }
    return all;
}

int main(int argc, char **argv) {
    int device, steps = 8, accepted = 0, judged = 0;
    void *context, *stream, *graph, *replay;
    cu("cuInit", 0u), cu("cuDeviceGet", &device, 0), cu("cuDevicePrimaryCtxRetain", &context, device);
    cu("cuCtxSetCurrent", context), cu("cuStreamCreate", &stream, 1u);

    gavel_judge *judge = nullptr;
    gavel_verifier *verifier = nullptr;
    uint32_t widths[GAVEL_MAX_PARTS];
    size_t bytes = 0;
    check(gavel_judge_open(argc > 1 ? argv[1] : "models/demo/judge.safetensors", &judge));
    check(gavel_judge_widths(judge, widths));
    check(gavel_verifier_create(judge, 0, &verifier));
    check(gavel_verifier_workspace(verifier, SEQUENCES, VOCABULARY, &bytes));
    Data *ours, *theirs, *host = new Data[SEQUENCES]();
    void *workspace;
    cu("cuMemHostAlloc", &ours, sizeof(Data) * SEQUENCES, 0u), cu("cuMemAlloc_v2", &theirs, sizeof(Data) * SEQUENCES);
    cu("cuMemAlloc_v2", &workspace, bytes), std::memset(static_cast<void *>(ours), 0, sizeof(Data) * SEQUENCES);

    // a step: data in, verification, verdicts out; captured once
    const auto asked = requests(theirs, widths, 0.5f), reference = requests(host, widths, 0.5f);
    cu("cuStreamBeginCapture_v2", stream, 1);
    cu("cuMemcpyHtoDAsync_v2", theirs, ours, sizeof(Data) * SEQUENCES, stream);
    check(gavel_verifier_enqueue(verifier, asked.data(), SEQUENCES, workspace, bytes, stream));
    cu("cuMemcpyDtoHAsync_v2", ours, theirs, sizeof(Data) * SEQUENCES, stream);
    cu("cuStreamEndCapture", stream, &graph), cu("cuGraphInstantiateWithFlags", &replay, graph, 0ull);
    for (int i = 0; i < SEQUENCES; i++) ours[i].random = {42u + i, 0, 0};
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < SEQUENCES; i++) forward(ours[i], step), host[i] = ours[i];
        cu("cuGraphLaunch", replay, stream), cu("cuStreamSynchronize", stream);
        check(gavel_verify(judge, reference.data(), SEQUENCES));
        for (int i = 0; i < SEQUENCES; i++) {
            const gavel_verdict &a = ours[i].verdict, &b = host[i].verdict;
            const int n = ours[i].tree.nodes;
            if (a.error || std::memcmp(&a, &b, offsetof(gavel_verdict, path)) || std::memcmp(a.path, b.path, 4 * a.length) ||
                std::memcmp(a.reason, b.reason, 4 * n) || ours[i].random.step != step + 1u)
                return std::fprintf(stderr, "step %d, sequence %d: device and host differ\n", step, i), 1;
            accepted += a.length;
            for (int k = 0; k < n; k++) judged += a.reason[k] == GAVEL_NODE_JUDGED;
        }
    }
    std::printf("%d steps of %d sequences: %d nodes accepted, %d of them judged, host and device agree\n", steps, SEQUENCES, accepted, judged);
    gavel_verifier_destroy(verifier), gavel_judge_close(judge);
    return 0;
}
