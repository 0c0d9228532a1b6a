#include "llama-fed.h"

#include "llama-context.h"
#include "llama-kv-cache-fed.h"
#include "llama-model.h"

#include <cstdio>

llama_fed_caches * llama_fed_cache(const llama_context * ctx) {
    if (!ctx) {
        return nullptr;
    }
    return dynamic_cast<llama_fed_caches *>(llama_get_memory(ctx));
}

const char * llama_fed_strerror(int32_t status) {
    switch (status) {
        case LLAMA_FED_OK:            return "success";
        case LLAMA_FED_E_ARG:         return "a null pointer, a count of zero, or positions that do not increase";
        case LLAMA_FED_E_CONTEXT:     return "the context is not a federated one";
        case LLAMA_FED_E_LAYER:       return "no such layer, or not a sync or local layer as it is needed";
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

static const char * const FED_NO_FLASH_ATTENTION =
    "llama.cpp runs it without flash attention, and then keeps no V rows that could be exchanged";

// Why the model's memory is not a plain cache of K and V rows, or nullptr. The order goes from the plainest cause.
static const char * unsupported(const llama_model & model) {
    const llama_hparams & hparams = model.hparams;
    if (llama_model_is_recurrent(&model)) {
        return "it keeps a recurrent state instead of K and V rows";
    }
    if (llama_model_is_hybrid(&model)) {
        return "some of its layers keep a recurrent state instead of K and V rows";
    }
    if (llama_model_has_encoder(&model) || !llama_model_has_decoder(&model)) {
        return "it has an encoder; only decoders are federated";
    }
    if (!hparams.causal_attn || model.arch == LLM_ARCH_LLAMA_EMBED) {
        return "its tokens attend to those after them; only decoders are federated";
    }
    if (model.arch == LLM_ARCH_GROK) {
        return FED_NO_FLASH_ATTENTION;
    }
    if (hparams.is_mla()) {
        return "its multi-head latent attention keeps no K and V rows that could be exchanged";
    }
    if (hparams.n_pos_per_embd() != 1) {
        return "its positions have several axes";
    }
    for (const llama_layer & layer : model.layers) {
        if (layer.rope_long || layer.rope_short) {
            return "its RoPE depends on the length of the context, which differs between participants";
        }
    }
    if (hparams.swa_type != LLAMA_SWA_TYPE_NONE && hparams.swa_type != LLAMA_SWA_TYPE_STANDARD) {
        return "some of its layers attend in chunks, or to both sides of a token";
    }
    if (hparams.n_layer_kv_from_start >= 0 && hparams.n_layer_kv_from_start < llama_model_n_layer(&model)) {
        return "its later layers read the rows of earlier ones";
    }
    if (model.arch == LLM_ARCH_GEMMA4_ASSISTANT) {
        return "its layers read the rows of another model";
    }
    for (int32_t il = 0; il < llama_model_n_layer(&model); ++il) {
        if (!hparams.has_kv(il) || hparams.n_embd_k_gqa(il) == 0 || hparams.n_embd_v_gqa(il) == 0) {
            return "some of its layers have no attention, and so no rows to exchange";
        }
    }
    return nullptr;
}

int32_t llama_fed_check_model(const llama_model * model, char * reason, size_t reason_size) {
    if (!model) {
        fail(LLAMA_FED_E_ARG, llama_fed_strerror(LLAMA_FED_E_ARG), nullptr, reason, reason_size);
        return LLAMA_FED_E_ARG;
    }
    const char * why = unsupported(*model);
    if (why) {
        fail(LLAMA_FED_E_UNSUPPORTED, why, nullptr, reason, reason_size);
        return LLAMA_FED_E_UNSUPPORTED;
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_row_shape(const llama_model * model, int32_t il, uint32_t * n_k, uint32_t * n_v,
                            uint32_t * n_window) {
    if (!model || !n_k || !n_v || !n_window) {
        return LLAMA_FED_E_ARG;
    }
    if (il < 0 || il >= llama_model_n_layer(model) || !model->hparams.has_kv(il)) {
        return LLAMA_FED_E_LAYER;
    }
    *n_k = model->hparams.n_embd_k_gqa(il);
    *n_v = model->hparams.n_embd_v_gqa(il);

    const bool swa = model->hparams.swa_type != LLAMA_SWA_TYPE_NONE && model->hparams.is_swa(il);
    *n_window      = swa ? model->hparams.n_swa : 0;
    return LLAMA_FED_OK;
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
    if (llama_fed_check_model(model, reason, reason_size) != LLAMA_FED_OK) {
        if (status) {
            *status = LLAMA_FED_E_UNSUPPORTED;
        }
        return nullptr;
    }

    llama_fed_state * state = new (std::nothrow) llama_fed_state();
    if (!state) {
        return fail(LLAMA_FED_E_MEMORY, llama_fed_strerror(LLAMA_FED_E_MEMORY), status, reason, reason_size);
    }

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
        return fail(LLAMA_FED_E_UNSUPPORTED, "its attention has no plain cache of K and V rows", status, reason,
                    reason_size);
    }
    if (!ctx->get_cparams().flash_attn) {
        llama_free(ctx);
        return fail(LLAMA_FED_E_UNSUPPORTED, FED_NO_FLASH_ATTENTION, status, reason, reason_size);
    }
    if (status) {
        *status = LLAMA_FED_OK;
    }
    return ctx;
}

int32_t llama_fed_reserve(llama_context * ctx, const llama_pos * pos, size_t n) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return llama_fed_guard(
        [&]() -> int32_t { return kv->get_state().in_hook ? LLAMA_FED_E_STATE : kv->reserve(pos, n); });
}

int32_t llama_fed_release(llama_context * ctx, const llama_pos * pos, size_t n) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    return llama_fed_guard(
        [&]() -> int32_t { return kv->get_state().in_hook ? LLAMA_FED_E_STATE : kv->release(pos, n); });
}

int32_t llama_fed_set_next_pos(llama_context * ctx, llama_pos pos) {
    llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    if (kv->get_state().in_hook) {
        return LLAMA_FED_E_STATE;
    }
    if (pos < 0) {
        return LLAMA_FED_E_ARG;
    }
    return kv->set_next_pos(pos);
}

int32_t llama_fed_get_memory(const llama_context * ctx, llama_fed_memory * out) {
    const llama_fed_caches * kv = llama_fed_cache(ctx);
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    if (!out) {
        return LLAMA_FED_E_ARG;
    }
    kv->get_memory(*out);
    return LLAMA_FED_OK;
}
