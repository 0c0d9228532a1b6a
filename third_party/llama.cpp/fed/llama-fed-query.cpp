// What tokens look for, for those who choose rows by it: the queries of each layer, read and never changed.

#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include <cstring>

static const ggml_tensor * storage_of(const ggml_tensor * t) {
    while (t->view_src) {
        t = t->view_src;
    }
    return t;
}

int32_t llama_fed_attended_layer(const llama_fed_state & state, const ggml_tensor * t) {
    const ggml_tensor * keys = storage_of(t->src[1]);
    for (size_t il = 0; il < state.layers.size(); ++il) {
        if (keys == state.layers[il].k) {
            return (int32_t) il;
        }
    }
    return -1;
}

// Puts the queries q, f32 [n_head_kv * group][n][head dim] in any order of memory, into state.rows, [n][n_head_kv][head dim].
static void pool_heads(llama_fed_state & state, const ggml_tensor * q, size_t n_head_kv) {
    const size_t dim   = (size_t) q->ne[0];
    const size_t n     = (size_t) q->ne[1];
    const size_t group = (size_t) q->ne[2] / n_head_kv;
    const float  part  = 1.0f / (float) group;
    state.query.raw.resize(ggml_nbytes(q));
    ggml_backend_tensor_get(q, state.query.raw.data(), 0, ggml_nbytes(q));
    state.rows.assign(n * n_head_kv * dim, 0.0f);
    for (size_t head = 0; head < n_head_kv * group; ++head) {
        for (size_t i = 0; i < n; ++i) {
            const uint8_t * from = state.query.raw.data() + i * q->nb[1] + head * q->nb[2];
            float *         to   = state.rows.data() + (i * n_head_kv + head / group) * dim;
            for (size_t j = 0; j < dim; ++j) {
                float x;
                memcpy(&x, from + j * sizeof(x), sizeof(x));
                to[j] += x * part;
            }
        }
    }
}

static int32_t show_queries(llama_fed_state & state, int32_t il, const ggml_tensor * q, size_t n_head_kv) {
    const llama_fed_layer & layer = state.layers[il];
    const size_t            n     = (size_t) q->ne[1];
    int32_t                 res   = llama_fed_check_rotation(state, layer);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    pool_heads(state, q, n_head_kv);
    // models that drop tokens before the last layer keep the last ones
    const llama_pos * pos = state.ubatch_pos.data() + (state.ubatch_pos.size() - n);
    if (layer.rope.kind == llama_fed_rope::ROPE) {
        res = llama_fed_rotate(state, layer.rope, state.rows.data(), n, [pos](size_t i) { return -pos[i]; });
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    state.in_hook = true;
    state.query.hook(il, pos, n, state.rows.data(), (uint32_t) n_head_kv, (uint32_t) layer.k->ne[0], state.query.data);
    state.in_hook = false;
    return LLAMA_FED_OK;
}

bool llama_fed_eval_query(llama_fed_state & state, const ggml_tensor * t, bool ask) {
    const int32_t il = state.query.hook ? llama_fed_attended_layer(state, t) : -1;
    if (il < 0) {
        return !ask;
    }
    const ggml_tensor * q         = t->src[0];
    const int64_t       n_head_kv = t->src[1]->ne[2];
    const bool plain = q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && q->ne[3] == 1 && q->ne[1] > 0 &&
                       (size_t) q->ne[1] <= state.ubatch_pos.size();
    if (!plain || q->ne[2] % n_head_kv != 0 || q->ne[0] * n_head_kv != state.layers[il].k->ne[0]) {
        return !ask;
    }
    if (!ask) {
        // what fails is left out: the graph has nothing to do with it
        (void) llama_fed_guard([&] { return show_queries(state, il, q, (size_t) n_head_kv); });
    }
    return true;
}

int32_t llama_fed_set_query_hook(llama_context * ctx, llama_fed_query_hook hook, void * user_data) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    llama_fed_state & state = kv->get_state();
    if (state.in_hook) {
        return LLAMA_FED_E_STATE;
    }
    state.query.data = user_data;
    state.query.hook = hook;
    return LLAMA_FED_OK;
}
