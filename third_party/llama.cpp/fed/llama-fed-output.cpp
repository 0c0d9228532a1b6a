// What leaves each layer, for those who measure: the residual stream after the layer, read and never changed.

#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include <cstdlib>
#include <cstring>

// The layer whose output a node is, or -1. Model graphs name it l_out-<layer>; views of it have a suffix.
static int32_t output_layer(const ggml_tensor * t) {
    static const char   prefix[] = "l_out-";
    static const size_t n_prefix = sizeof(prefix) - 1;
    if (strncmp(t->name, prefix, n_prefix) != 0 || t->name[n_prefix] < '0' || t->name[n_prefix] > '9') {
        return -1;
    }
    char *     end = nullptr;
    const long il  = strtol(t->name + n_prefix, &end, 10);
    return *end == '\0' ? (int32_t) il : -1;
}

bool llama_fed_eval_output(llama_fed_state & state, const ggml_tensor * t, bool ask) {
    if (!state.output.hook) {
        return !ask;
    }
    const int32_t il = output_layer(t);
    // a stream of several parts, and one without tokens, have no rows to show
    const bool    plain = t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->ne[2] == 1 && t->ne[3] == 1;
    const auto    n     = (size_t) t->ne[1];
    if (il < 0 || (size_t) il >= state.layers.size() || !plain || n == 0 || n > state.ubatch_pos.size() ||
        n * t->ne[0] > state.output.rows.size()) {
        return !ask;
    }
    if (!ask) {
        ggml_backend_tensor_get(t, state.output.rows.data(), 0, ggml_nbytes(t));
        // before the last layer ends, llama.cpp drops the tokens whose logits nobody wants
        const llama_pos * pos = state.ubatch_pos.data() + (state.ubatch_pos.size() - n);
        state.in_hook         = true;
        state.output.hook(il, pos, n, state.output.rows.data(), (uint32_t) t->ne[0], state.output.data);
        state.in_hook = false;
    }
    return true;
}

int32_t llama_fed_set_output_hook(llama_context * ctx, llama_fed_output_hook hook, void * user_data) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    llama_fed_state & state = kv->get_state();
    if (state.in_hook) {
        return LLAMA_FED_E_STATE;
    }
    return llama_fed_guard([&] {
        // allocated here: nothing may be thrown through the graph
        const size_t n = hook ? (size_t) llama_n_ubatch(ctx) * llama_model_n_embd(llama_get_model(ctx)) : 0;
        state.output.rows.resize(n);
        state.output.data = user_data;
        state.output.hook = hook;
        return LLAMA_FED_OK;
    });
}
