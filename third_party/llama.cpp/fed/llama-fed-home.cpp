// Rows that stay home: attention that is shared with other devices, and the rows that answer their queries.

#include "llama-fed-attention.h"
#include "llama-fed.h"
#include "llama-kv-cache-fed.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

//
// the model
//

int32_t llama_fed_home_check(const llama_model * model, char * reason, size_t reason_size) {
    const int32_t res = llama_fed_check_model(model, reason, reason_size);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    if (model->hparams.f_max_alibi_bias > 0.0f) {
        if (reason && reason_size > 0) {
            snprintf(reason, reason_size, "%s", "its attention is biased by distance (ALiBi)");
        }
        return LLAMA_FED_E_UNSUPPORTED;
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_head_count(const llama_model * model, int32_t il, uint32_t * n_head, uint32_t * n_head_kv) {
    if (!model || !n_head || !n_head_kv) {
        return LLAMA_FED_E_ARG;
    }
    if (il < 0 || il >= llama_model_n_layer(model) || !model->hparams.has_kv(il)) {
        return LLAMA_FED_E_LAYER;
    }
    *n_head    = model->hparams.n_head(il);
    *n_head_kv = model->hparams.n_head_kv(il);
    return LLAMA_FED_OK;
}

//
// the device that asks
//

static float param(const ggml_tensor * t, size_t i) {
    float x;
    memcpy(&x, (const float *) t->op_params + i, sizeof(x));
    return x;
}

void llama_fed_note_heads(llama_fed_state & state, const ggml_tensor * t) {
    const int32_t il = llama_fed_attended_layer(state, t);
    if (il < 0 || state.layers[il].heads.seen) {
        return;
    }
    const ggml_tensor * q     = t->src[0];
    llama_fed_layer &   layer = state.layers[il];
    const bool plain = q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && q->ne[3] == 1 &&
                       q->ne[0] * t->src[1]->ne[2] == layer.k->ne[0] &&
                       t->src[2]->ne[0] * t->src[1]->ne[2] == layer.v->ne[0] && q->ne[2] % t->src[1]->ne[2] == 0 &&
                       param(t, 1) == 0.0f;
    if (!plain) {
        return;
    }
    llama_fed_heads & heads = layer.heads;
    heads.n_head            = (uint32_t) q->ne[2];
    heads.n_head_kv         = (uint32_t) t->src[1]->ne[2];
    heads.dim_k             = (uint32_t) q->ne[0];
    heads.dim_v             = (uint32_t) t->src[2]->ne[0];
    heads.scale             = param(t, 0);
    heads.softcap           = param(t, 2);
    snprintf(heads.queries, sizeof(heads.queries), "%s", q->name);
    heads.seen = true;
}

// the positions of the n tokens that a node is about: models that drop tokens before the last layer keep the last ones
static const llama_pos * last_positions(const llama_fed_state & state, size_t n) {
    return state.ubatch_pos.data() + (state.ubatch_pos.size() - n);
}

// queries [n_head][n][head dim] in any order of memory, to home.rows, [n][n_head][head dim]
static int32_t show_queries(llama_fed_state & state, int32_t il, const ggml_tensor * q) {
    llama_fed_home & home   = state.home;
    const size_t     dim    = (size_t) q->ne[0];
    const size_t     n      = (size_t) q->ne[1];
    const size_t     n_head = (size_t) q->ne[2];
    if (n == 0 || n > state.ubatch_pos.size()) {
        return LLAMA_FED_E_STATE;
    }
    home.raw.resize(ggml_nbytes(q));
    home.rows.resize(dim * n * n_head);
    ggml_backend_tensor_get(q, home.raw.data(), 0, ggml_nbytes(q));
    for (size_t i = 0; i < n; ++i) {
        for (size_t head = 0; head < n_head; ++head) {
            memcpy(home.rows.data() + (i * n_head + head) * dim, home.raw.data() + i * q->nb[1] + head * q->nb[2],
                   dim * sizeof(float));
        }
    }
    home.asked            = q;
    state.in_hook         = true;
    const int32_t refused = home.ask(il, last_positions(state, n), n, home.rows.data(), (uint32_t) n_head,
                                     (uint32_t) dim, home.data);
    state.in_hook         = false;
    return refused ? LLAMA_FED_E_STATE : LLAMA_FED_OK;
}

// The queries are ready before attention is: asked early, other devices compute while this one does.
bool llama_fed_eval_home_ask(llama_fed_state & state, const ggml_tensor * t, bool ask) {
    const int32_t il = state.home.next;
    if (il < 0 || !state.layers[il].heads.seen || strcmp(t->name, state.layers[il].heads.queries) != 0) {
        return !ask;
    }
    return ask || llama_fed_guard([&]() -> int32_t { return show_queries(state, il, t); }) == LLAMA_FED_OK;
}

static int32_t merge(llama_fed_state & state, int32_t il, ggml_tensor * t) {
    llama_fed_home & home = state.home;
    if (!state.layers[il].heads.seen) {
        return LLAMA_FED_E_UNSUPPORTED;
    }
    if (home.asked != t->src[0]) {
        if (home.asked) {
            return LLAMA_FED_E_STATE; // what was shown was something else
        }
        const int32_t res = show_queries(state, il, t->src[0]);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    // [head dim, n_head, n]
    const size_t n_head = (size_t) t->ne[1];
    const size_t n      = (size_t) t->ne[2];
    home.rows.resize((size_t) ggml_nelements(t));
    home.lse.resize(n * n_head);
    const int32_t res = home.attention->sums(t, home.lse.data());
    if (res != LLAMA_FED_OK) {
        return res;
    }
    ggml_backend_tensor_get(t, home.rows.data(), 0, ggml_nbytes(t));
    state.in_hook         = true;
    const int32_t refused = home.merge(il, last_positions(state, n), n, home.rows.data(), home.lse.data(),
                                       (uint32_t) n_head, (uint32_t) t->ne[0], home.data);
    state.in_hook         = false;
    if (refused) {
        return LLAMA_FED_E_STATE;
    }
    ggml_backend_tensor_set(t, home.rows.data(), 0, ggml_nbytes(t));
    return LLAMA_FED_OK;
}

bool llama_fed_eval_home_merge(llama_fed_state & state, ggml_tensor * t, bool ask, bool & stop) {
    const int32_t il = state.home.ask ? llama_fed_attended_layer(state, t) : -1;
    if (il < 0 || !state.home.layers[il]) {
        return !ask;
    }
    if (!ask) {
        stop            = llama_fed_guard([&]() -> int32_t { return merge(state, il, t); }) != LLAMA_FED_OK;
        state.home.next = -1;
    }
    return true;
}

int32_t llama_fed_set_home(llama_context * ctx, const uint8_t * layers, size_t n_layers, llama_fed_home_ask ask,
                           llama_fed_home_merge merge, void * user_data) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    llama_fed_state & state = kv->get_state();
    if (state.in_hook) {
        return LLAMA_FED_E_STATE;
    }
    if (!ask) {
        state.home = {};
        return LLAMA_FED_OK;
    }
    if (!layers || !merge) {
        return LLAMA_FED_E_ARG;
    }
    if (n_layers != state.layers.size()) {
        return LLAMA_FED_E_LAYER;
    }
    const int32_t res = llama_fed_home_check(llama_get_model(ctx), nullptr, 0);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    return llama_fed_guard([&]() -> int32_t {
        if (!state.home.attention) {
            state.home.attention = llama_fed_attention::create(1);
            if (!state.home.attention) {
                return LLAMA_FED_E_MEMORY;
            }
        }
        state.home.layers.assign(layers, layers + n_layers);
        state.home.data  = user_data;
        state.home.merge = merge;
        state.home.ask   = ask;
        return LLAMA_FED_OK;
    });
}

//
// the devices that answer
//

struct llama_fed_rows {
    struct kept {
        bool            here = false;
        llama_fed_layer layer; // its heads and RoPE
        ggml_tensor *   k  = nullptr;
        ggml_tensor *   vt = nullptr;
    };

    std::unique_ptr<llama_fed_attention> attention;
    ggml_context_ptr                     ctx;
    ggml_backend_buffer_ptr              buffer;
    std::vector<kept>                    layers;
    std::vector<llama_pos>               pos;
};

// Copies the rows of one layer. Rows of a head lie together, and V is transposed: then both products of attention go
// along memory.
static int32_t keep_layer(llama_fed_rows & rows, llama_context * ctx, int32_t il) {
    llama_fed_rows::kept &  to    = rows.layers[il];
    const llama_fed_heads & heads = to.layer.heads;
    const size_t            n     = rows.pos.size();
    std::vector<uint16_t>   k(n * heads.dim_k * heads.n_head_kv);
    std::vector<uint16_t>   v(n * heads.dim_v * heads.n_head_kv);
    const int32_t           res = llama_fed_rows_get(ctx, il, rows.pos.data(), n, LLAMA_FED_TYPE_F16, k.data(),
                                                     k.size() * sizeof(k[0]), LLAMA_FED_TYPE_F16, v.data(),
                                                     v.size() * sizeof(v[0]));
    if (res != LLAMA_FED_OK) {
        return res;
    }
    uint16_t * k_to = (uint16_t *) to.k->data;
    uint16_t * v_to = (uint16_t *) to.vt->data;
    for (size_t head = 0; head < heads.n_head_kv; ++head) {
        for (size_t i = 0; i < n; ++i) {
            memcpy(k_to, &k[(i * heads.n_head_kv + head) * heads.dim_k], heads.dim_k * sizeof(k[0]));
            k_to += heads.dim_k;
        }
        for (size_t j = 0; j < heads.dim_v; ++j) {
            for (size_t i = 0; i < n; ++i) {
                *v_to++ = v[(i * heads.n_head_kv + head) * heads.dim_v + j];
            }
        }
    }
    return LLAMA_FED_OK;
}

static int32_t keep_rows(llama_fed_rows & rows, llama_context * ctx, const llama_fed_state & state,
                         const uint8_t * layers, size_t n_layers, const llama_pos * pos, size_t n, int32_t n_threads) {
    rows.attention                = llama_fed_attention::create(n_threads);
    const ggml_init_params params = { 2 * n_layers * ggml_tensor_overhead(), nullptr, true };
    rows.ctx.reset(ggml_init(params));
    if (!rows.attention || !rows.ctx) {
        return LLAMA_FED_E_MEMORY;
    }
    rows.pos.assign(pos, pos + n);
    rows.layers.resize(n_layers);
    for (size_t il = 0; il < n_layers; ++il) {
        if (!layers[il]) {
            continue;
        }
        const llama_fed_layer & from = state.layers[il];
        if (!from.k) {
            return LLAMA_FED_E_LAYER;
        }
        if (!from.heads.seen) {
            return LLAMA_FED_E_STATE;
        }
        llama_fed_rows::kept & to = rows.layers[il];
        to.here                   = true;
        to.layer.rope             = from.rope;
        if (state.absolute_positions) {
            to.layer.rope.kind = llama_fed_rope::UNSHIFTABLE;
        }
        to.layer.heads = from.heads;
        uint32_t n_k   = 0;
        uint32_t n_v   = 0;
        llama_fed_row_shape(llama_get_model(ctx), (int32_t) il, &n_k, &n_v, &to.layer.heads.n_window);
        const llama_fed_heads & heads = to.layer.heads;
        to.k  = ggml_new_tensor_3d(rows.ctx.get(), GGML_TYPE_F16, heads.dim_k, (int64_t) n, heads.n_head_kv);
        to.vt = ggml_new_tensor_3d(rows.ctx.get(), GGML_TYPE_F16, (int64_t) n, heads.dim_v, heads.n_head_kv);
    }
    rows.buffer.reset(ggml_backend_alloc_ctx_tensors_from_buft(rows.ctx.get(), ggml_backend_cpu_buffer_type()));
    if (!rows.buffer) {
        return LLAMA_FED_E_MEMORY;
    }
    for (size_t il = 0; il < n_layers; ++il) {
        if (!layers[il]) {
            continue;
        }
        const int32_t res = keep_layer(rows, ctx, (int32_t) il);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    return LLAMA_FED_OK;
}

llama_fed_rows * llama_fed_rows_keep(llama_context * ctx, const uint8_t * layers, size_t n_layers,
                                     const llama_pos * pos, size_t n, int32_t n_threads, int32_t * status) {
    llama_fed_caches *              kv = llama_fed_cache(ctx);
    std::unique_ptr<llama_fed_rows> rows;

    int32_t res = LLAMA_FED_OK;
    if (!kv) {
        res = LLAMA_FED_E_CONTEXT;
    } else if (kv->get_state().in_hook) {
        res = LLAMA_FED_E_STATE;
    } else if (!layers || !pos || n == 0) {
        res = LLAMA_FED_E_ARG;
    } else if (n_layers != kv->get_state().layers.size()) {
        res = LLAMA_FED_E_LAYER;
    } else if (std::none_of(layers, layers + n_layers, [](uint8_t l) { return l; })) {
        res = LLAMA_FED_E_ARG;
    } else {
        res = llama_fed_home_check(llama_get_model(ctx), nullptr, 0);
    }
    if (res == LLAMA_FED_OK) {
        res = llama_fed_guard([&]() -> int32_t {
            rows = std::make_unique<llama_fed_rows>();
            return keep_rows(*rows, ctx, kv->get_state(), layers, n_layers, pos, n, n_threads);
        });
    }
    if (status) {
        *status = res;
    }
    return res == LLAMA_FED_OK ? rows.release() : nullptr;
}

void llama_fed_rows_free(llama_fed_rows * rows) {
    delete rows;
}

size_t llama_fed_rows_bytes(const llama_fed_rows * rows) {
    return rows && rows->buffer ? ggml_backend_buffer_get_size(rows->buffer.get()) : 0;
}

int32_t llama_fed_rows_attend(llama_fed_rows * rows, int32_t il, llama_pos shift, llama_pos first, size_t n,
                              const float * q, size_t n_q, float * out, size_t n_out, float * lse, size_t n_lse) {
    if (!rows || !q || !out || !lse || n == 0) {
        return LLAMA_FED_E_ARG;
    }
    if (il < 0 || (size_t) il >= rows->layers.size() || !rows->layers[il].here) {
        return LLAMA_FED_E_LAYER;
    }
    const llama_fed_rows::kept & kept  = rows->layers[il];
    const llama_fed_heads &      heads = kept.layer.heads;
    if (n_q / n != (size_t) heads.n_head * heads.dim_k || n_out / n != (size_t) heads.n_head * heads.dim_v ||
        n_lse / n != heads.n_head || n_q % n != 0 || n_out % n != 0 || n_lse % n != 0) {
        return LLAMA_FED_E_SIZE;
    }
    const int64_t from = (int64_t) rows->pos.front() + shift;
    const int64_t to   = (int64_t) rows->pos.back() + shift;
    if (from < 0 || to >= first || (int64_t) first + (int64_t) n > INT32_MAX) {
        return LLAMA_FED_E_POSITION;
    }
    if (shift != 0 && kept.layer.rope.kind == llama_fed_rope::UNSHIFTABLE) {
        return LLAMA_FED_E_UNSUPPORTED;
    }
    for (size_t i = 0; i < n_q; ++i) {
        if (!std::isfinite(q[i])) {
            return LLAMA_FED_E_VALUE;
        }
    }
    const llama_fed_attention::rows r = { &kept.layer, kept.k, kept.vt, rows->pos.data() };
    return llama_fed_guard([&] { return rows->attention->attend(r, shift, first, n, q, out, lse); });
}
