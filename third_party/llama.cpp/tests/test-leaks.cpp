// Makes and frees what a session does on tiny models, in one process, so that a leak sanitizer can look at the end for what
// was not freed: all checks of one process against several, of models of every kind of cache and rotation, models that are
// refused, and contexts that cannot be created.
//
//   test-leaks [plant]    plant: and leaks a little itself, which the sanitizer has to find

// the models and their checks are static functions of that program
#define TEST_ARCHS_AS_A_PART
#include "test-archs.cpp"

#include "llama-fed.h"

#include <cstdio>
#include <cstring>

namespace {

// One cache, two with a window, RoPE of both kinds, scaled, partial, none, and one that is refused.
const char * const ARCHS = "^(llama|qwen2|gemma3|phi2|starcoder|deepseek2|mamba)$";

// A context whose caches take more than the 200 MiB that test-leaks.sh lets one allocation have. It is refused, and what was
// made before is freed.
bool refuses_too_much(const variant & v) {
    const llama_model_ptr model = make_model(v);
    if (!fed_refusal(model.get()).empty()) {
        return true;
    }
    const std::vector<uint8_t> sync((size_t) llama_model_n_layer(model.get()), 1);
    llama_fed_params           params = {};
    params.sync_layers                = sync.data();
    params.n_layers                   = sync.size();
    params.n_cells_local              = 256;
    params.n_cells_sync               = 1u << 21;
    int32_t         status            = LLAMA_FED_OK;
    char            reason[256]       = "";
    llama_context * ctx = llama_fed_init(model.get(), llama_context_default_params(), &params, &status, reason,
                                         sizeof(reason));
    if (ctx) {
        llama_free(ctx);
        return false;
    }
    return status == LLAMA_FED_E_MEMORY;
}

} // namespace

int main(int argc, char ** argv) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    int failures = 0;
    for (const variant & v : variants(ARCHS)) {
        const result r = examine(v, depth::ALL);
        printf("test-leaks: %-32s %s\n", v.name().c_str(), describe(r).c_str());
        failures += r.what == verdict::FAILED;
        if (r.what == verdict::IDENTICAL && !refuses_too_much(v)) {
            printf("test-leaks: %s makes caches of 2^21 cells\n", v.name().c_str());
            ++failures;
        }
    }
    if (argc > 1 && strcmp(argv[1], "plant") == 0) {
        volatile char * planted = new char[4321];
        planted[0]              = 1;
        planted                 = nullptr;
    }
    return failures > 0;
}
