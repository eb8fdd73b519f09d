/* Continues a prompt with gavel, and says why each token is there.
 *
 *     cc generate.c -o generate $(pkg-config --cflags --static --libs gavel)
 *     ./generate models/demo/target models/demo/draft models/demo/judge.safetensors "PROMPT"
 */
#include <gavel.h>
#include <stdio.h>
#include <stdlib.h>

static void check(gavel_status status, const char *doing) {
    if (status == GAVEL_OK) return;
    fprintf(stderr, "%s: %s (%d)\n", doing, gavel_last_error(), (int)status);
    exit(status == GAVEL_INVALID ? 2 : 1);
}

static void set(gavel_options *options, const char *name, const char *value) {
    check(gavel_options_set(options, name, value), name);
}

struct counts {
    size_t tokens, judged;
};

/* Sees what each step committed, as soon as it is known; any other result than 0 would end it. */
static int32_t show(const gavel_piece *piece, void *user) {
    struct counts *counts = user;
    fwrite(piece->text, 1, piece->text_bytes, stdout);
    fflush(stdout);
    counts->tokens += piece->count;
    for (size_t i = 0; i < piece->count; i++) counts->judged += piece->reasons[i] == GAVEL_JUDGED;
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: %s MODEL DRAFT JUDGE PROMPT\n", argv[0]);
        return 2;
    }
    if (gavel_abi_version() / 1000 != GAVEL_ABI_VERSION / 1000 || gavel_abi_version() < GAVEL_ABI_VERSION) {
        fprintf(stderr, "gavel.h is of another version than the library\n");
        return 1;
    }

    gavel_options *options = gavel_options_new();
    set(options, "model", argv[1]);
    set(options, "draft", argv[2]);
    set(options, "gamma", "8");
    set(options, "chat", "1");
    gavel_engine *engine = NULL;
    check(gavel_engine_open(options, &engine), "opening the engine");
    fprintf(stderr, "gavel %s on %s\n", gavel_version(), gavel_engine_device(engine));
    gavel_options_free(options);

    /* the same prompt, by the lossless rule and with a judge */
    const char *judges[] = {"none", argv[3]};
    for (int i = 0; i < 2; i++) {
        gavel_options *request = gavel_options_new();
        set(request, "judge", judges[i]);
        set(request, "max-tokens", "200");
        struct counts counts = {0, 0};
        gavel_stats stats = {.size = sizeof stats};
        check(gavel_engine_generate(engine, request, argv[4], show, &counts, &stats), "generating");
        gavel_options_free(request);
        if (counts.tokens != stats.tokens || counts.judged != stats.judged) return 1;
        printf("\n");
        fprintf(stderr, "%zu tokens in %zu passes, m %.2f, %zu judged, %.0f ms\n", (size_t)stats.tokens,
                (size_t)stats.target_passes, (double)(stats.aligned + stats.judged) / (double)stats.target_passes,
                counts.judged, 1e3 * stats.total_s);
    }
    gavel_engine_close(engine);
    return 0;
}
