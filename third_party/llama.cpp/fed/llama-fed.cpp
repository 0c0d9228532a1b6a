#include "llama-fed.h"

#include "llama-kv-cache-fed.h"
#include "llama-model.h"

#include <cstdio>
#include <exception>

llama_kv_cache_fed * llama_fed_cache(const llama_context * ctx) {
    if (!ctx) {
        return nullptr;
    }
    return dynamic_cast<llama_kv_cache_fed *>(llama_get_memory(ctx));
}

const char * llama_fed_strerror(int32_t status) {
    switch (status) {
        case LLAMA_FED_OK:            return "success";
        case LLAMA_FED_E_ARG:         return "a null pointer, a count of zero, or positions that do not increase";
        case LLAMA_FED_E_CONTEXT:     return "the context is not a federated one";
        case LLAMA_FED_E_LAYER:       return "no such layer, or not a sync layer";
        case LLAMA_FED_E_POSITION:    return "a position has no cell, or has one already";
        case LLAMA_FED_E_SIZE:        return "a buffer does not have the length that its rows and type imply";
        case LLAMA_FED_E_TYPE:        return "not a wire type for rows of this length";
        case LLAMA_FED_E_FULL:        return "not enough free cells in the sync cache";
        case LLAMA_FED_E_VALUE:       return "a row holds a value that is not finite or not an f16";
        case LLAMA_FED_E_STATE:       return "not allowed at this moment";
        case LLAMA_FED_E_UNSUPPORTED: return "the model's attention or positions cannot be federated";
        case LLAMA_FED_E_MEMORY:      return "out of memory";
        default:                      return "unknown status";
    }
}

static llama_context * fail(int32_t code, const char * why, int32_t * status, char * reason, size_t reason_size) {
    if (status) {
        *status = code;
    }
    if (reason && reason_size > 0) {
        snprintf(reason, reason_size, "%s", why);
    }
    return nullptr;
}

llama_context * llama_fed_init(llama_model * model, llama_context_params cparams, const llama_fed_params * params,
                               int32_t * status, char * reason, size_t reason_size) {
    if (!model || !params || !params->sync_layers || params->n_cells_local == 0 || params->n_cells_sync == 0) {
        return fail(LLAMA_FED_E_ARG, llama_fed_strerror(LLAMA_FED_E_ARG), status, reason, reason_size);
    }
    if (params->n_layers != (size_t) llama_model_n_layer(model)) {
        return fail(LLAMA_FED_E_LAYER, "the sync-layer set is not as long as the model", status, reason, reason_size);
    }
    if (params->n_cells_local > params->n_cells_sync) {
        return fail(LLAMA_FED_E_ARG, "the sync cache holds every own token, so it cannot be the smaller one", status,
                    reason, reason_size);
    }
    if (llama_model_is_recurrent(model) || llama_model_is_hybrid(model)) {
        return fail(LLAMA_FED_E_UNSUPPORTED, "the model keeps a recurrent state instead of K and V rows", status,
                    reason, reason_size);
    }
    if (llama_model_has_encoder(model)) {
        return fail(LLAMA_FED_E_UNSUPPORTED, "the model has an encoder", status, reason, reason_size);
    }

    llama_fed_state * state = new llama_fed_state();

    cparams.n_ctx             = params->n_cells_sync;
    cparams.n_seq_max         = 1;
    cparams.kv_unified        = true;
    cparams.type_k            = GGML_TYPE_F16;
    cparams.type_v            = GGML_TYPE_F16;
    cparams.flash_attn_type   = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    cparams.cb_eval           = llama_fed_eval;
    cparams.cb_eval_user_data = state;

    llama_fed_creating.params = params;
    llama_fed_creating.state  = state;
    llama_fed_creating.reason = nullptr;

    // llama_init_from_model catches its own exceptions
    llama_context * ctx = llama_init_from_model(model, cparams);

    const llama_fed_pending pending = llama_fed_creating;
    llama_fed_creating              = {};

    if (!ctx) {
        delete pending.state;
        return fail(LLAMA_FED_E_MEMORY, "the context could not be created; llama.cpp's log says why", status, reason,
                    reason_size);
    }
    if (!llama_fed_cache(ctx)) {
        llama_free(ctx);
        delete pending.state;
        const char * why = pending.reason ? pending.reason : "the model's attention has no plain K and V cache";
        return fail(LLAMA_FED_E_UNSUPPORTED, why, status, reason, reason_size);
    }
    if (status) {
        *status = LLAMA_FED_OK;
    }
    return ctx;
}

int32_t llama_fed_row_shape(const llama_context * ctx, int32_t il, uint32_t * n_k, uint32_t * n_v) {
    const llama_kv_cache_fed * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    const llama_fed_state & state = kv->get_state();
    if (il < 0 || (size_t) il >= state.layers.size() || !state.layers[il].k) {
        return LLAMA_FED_E_LAYER;
    }
    if (!n_k || !n_v) {
        return LLAMA_FED_E_ARG;
    }
    *n_k = (uint32_t) state.layers[il].k->ne[0];
    *n_v = (uint32_t) state.layers[il].v->ne[0];
    return LLAMA_FED_OK;
}

int32_t llama_fed_reserve(llama_context * ctx, const llama_pos * pos, size_t n) {
    llama_kv_cache_fed * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return kv->get_state().in_hook ? (int32_t) LLAMA_FED_E_STATE : kv->reserve(pos, n);
}

int32_t llama_fed_release(llama_context * ctx, const llama_pos * pos, size_t n) {
    llama_kv_cache_fed * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return kv->get_state().in_hook ? (int32_t) LLAMA_FED_E_STATE : kv->release(pos, n);
}

int32_t llama_fed_set_next_pos(llama_context * ctx, llama_pos pos) {
    llama_kv_cache_fed * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    if (kv->get_state().in_hook) {
        return LLAMA_FED_E_STATE;
    }
    if (pos < 0) {
        return LLAMA_FED_E_ARG;
    }
    if (pos <= kv->seq_pos_max(0)) {
        return LLAMA_FED_E_POSITION;
    }
    kv->set_next_pos(pos);
    return LLAMA_FED_OK;
}

int32_t llama_fed_get_memory(const llama_context * ctx, llama_fed_memory * out) {
    const llama_kv_cache_fed * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    if (!out) {
        return LLAMA_FED_E_ARG;
    }
    kv->get_memory(*out);
    return LLAMA_FED_OK;
}
