// The eval callback: notes each layer's RoPE while llama.cpp asks about nodes, and calls the hook after V is stored.

#include "llama-fed.h"
#include "llama-impl.h"
#include "llama-kv-cache-fed.h"

#include <cmath>
#include <cstring>

// depth of the chain of views and element-wise nodes between RoPE and the cache
static constexpr int FED_MAX_CHAIN = 16;

// Finds the RoPE that K went through on its way into the cache. Nodes that keep rows apart and in order are passed; a
// node that mixes parts of a row ends the search, since then the rotation cannot be redone from outside.
static llama_fed_rope find_rope(const ggml_tensor * k_cur) {
    llama_fed_rope rope;
    rope.kind = llama_fed_rope::NONE;

    bool mixed = false;
    for (int depth = 0; k_cur && depth < FED_MAX_CHAIN; ++depth) {
        switch (k_cur->op) {
            case GGML_OP_ROPE: {
                const int32_t * op = k_cur->op_params;
                rope.n_dims        = op[1];
                rope.mode          = op[2];
                rope.n_ctx_orig    = op[4];
                rope.n_offs        = op[15];
                memcpy(&rope.freq_base, op + 5, sizeof(float));
                memcpy(&rope.freq_scale, op + 6, sizeof(float));
                memcpy(&rope.ext_factor, op + 7, sizeof(float));
                memcpy(&rope.beta_fast, op + 9, sizeof(float));
                memcpy(&rope.beta_slow, op + 10, sizeof(float));

                // ggml scales by attn_factor and, with YaRN, by 1 + 0.1 ln(1/scale); the rows are scaled already
                rope.attn_factor = rope.ext_factor == 0.0f ? 1.0f : 1.0f / (1.0f + 0.1f * logf(1.0f / rope.freq_scale));

                rope.head_dim = k_cur->ne[0];
                rope.n_head   = k_cur->ne[1];
                if (const ggml_tensor * factors = k_cur->src[2]) {
                    rope.factors.resize(ggml_nelements(factors));
                    ggml_backend_tensor_get(factors, rope.factors.data(), 0, ggml_nbytes(factors));
                }
                const bool plain = rope.mode == GGML_ROPE_TYPE_NORMAL || rope.mode == GGML_ROPE_TYPE_NEOX;
                rope.kind        = plain && !mixed ? llama_fed_rope::ROPE : llama_fed_rope::UNSHIFTABLE;
                return rope;
            }
            case GGML_OP_NONE:
            case GGML_OP_MUL_MAT: // the projection: no RoPE on the way
                return rope;
            case GGML_OP_CONCAT:
                // K of several parts: one of them may be rotated
                rope.kind = llama_fed_rope::UNSHIFTABLE;
                return rope;
            case GGML_OP_RESHAPE:
            case GGML_OP_CONT:
            case GGML_OP_CPY:
            case GGML_OP_VIEW:    break;
            default:
                // scaling, norms and the like after RoPE change what a rotation would act on
                mixed = true;
        }
        k_cur = k_cur->src[0];
    }
    return rope;
}

static void note_rope(llama_fed_state & state, llama_fed_layer & layer, const ggml_tensor * set_rows) {
    // ggml_set_rows: src[0] are the new rows
    layer.rope = find_rope(set_rows->src[0]);
    if (layer.rope.kind == llama_fed_rope::ROPE && layer.rope.head_dim * layer.rope.n_head != layer.k->ne[0]) {
        layer.rope.kind = llama_fed_rope::UNSHIFTABLE;
    }
    if (layer.rope.kind == llama_fed_rope::ROPE) {
        llama_fed_find_turns(state, layer.rope);
    }
}

bool llama_fed_eval(ggml_tensor * t, bool ask, void * user_data) {
    llama_fed_state & state = *static_cast<llama_fed_state *>(user_data);

    if (t->op == GGML_OP_FLASH_ATTN_EXT) {
        if (ask) {
            llama_fed_note_heads(state, t);
            state.caches->tell_mask(llama_fed_attended_layer(state, t), t->src[3]);
        }
        bool       stop   = false;
        const bool shown  = llama_fed_eval_query(state, t, ask);
        const bool shared = llama_fed_eval_home_merge(state, t, ask, stop);
        return ask ? shown || shared : !stop;
    }
    if (t->op == GGML_OP_PERMUTE) {
        return llama_fed_eval_home_ask(state, t, ask);
    }
    if (t->op != GGML_OP_SET_ROWS) {
        return llama_fed_eval_output(state, t, ask);
    }
    const ggml_tensor * storage = t;
    while (storage->view_src) {
        storage = storage->view_src;
    }
    for (size_t il = 0; il < state.layers.size(); ++il) {
        llama_fed_layer & layer = state.layers[il];
        if (storage == layer.k) {
            if (ask && layer.rope.kind == llama_fed_rope::UNSEEN) {
                note_rope(state, layer, t);
            }
            return !ask;
        }
        if (storage == layer.v) {
            const bool hooked = state.hook && state.hook_layers[il];
            if (ask) {
                state.home.next  = state.home.ask && state.home.layers[il] ? (int32_t) il : -1;
                state.home.asked = nullptr;
                return hooked || state.caches->mask_differs((int32_t) il);
            }
            int32_t res = 0;
            if (hooked) {
                state.in_hook = true;
                res = state.hook((int32_t) il, state.ubatch_pos.data(), state.ubatch_pos.size(), state.hook_data);
                state.in_hook = false;
            }
            if (res == 0 && state.caches->mask_differs((int32_t) il)) {
                state.caches->apply_mask((int32_t) il);
            }
            return res == 0;
        }
    }
    return !ask;
}

int32_t llama_fed_set_hook(llama_context * ctx, const uint8_t * layers, size_t n_layers, llama_fed_hook hook,
                           void * user_data) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    llama_fed_state & state = kv->get_state();
    if (state.in_hook) {
        return LLAMA_FED_E_STATE;
    }
    if (!hook) {
        state.hook = nullptr;
        state.hook_layers.clear();
        return LLAMA_FED_OK;
    }
    if (!layers) {
        return LLAMA_FED_E_ARG;
    }
    if (n_layers != state.layers.size()) {
        return LLAMA_FED_E_LAYER;
    }
    for (size_t il = 0; il < n_layers; ++il) {
        if (layers[il] && !state.layers[il].k) {
            return LLAMA_FED_E_LAYER;
        }
    }
    return llama_fed_guard([&] {
        state.hook_layers.assign(layers, layers + n_layers);
        state.hook_data = user_data;
        state.hook      = hook;
        return LLAMA_FED_OK;
    });
}

int32_t llama_fed_can_shift(const llama_context * ctx) {
    const llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    const llama_fed_state & state = kv->get_state();
    for (const llama_fed_layer & layer : state.layers) {
        if (!layer.k) {
            continue;
        }
        if (layer.rope.kind == llama_fed_rope::UNSEEN) {
            return LLAMA_FED_E_STATE;
        }
        if (layer.rope.kind == llama_fed_rope::UNSHIFTABLE || state.absolute_positions) {
            return LLAMA_FED_E_UNSUPPORTED;
        }
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_mask(llama_context * ctx, const llama_pos * pos, size_t n) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return llama_fed_guard([&] { return kv->mask(pos, n); });
}

int32_t llama_fed_hide_local(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return llama_fed_guard(
        [&]() -> int32_t { return kv->get_state().in_hook ? LLAMA_FED_E_STATE : kv->hide_local(il, pos, n); });
}
