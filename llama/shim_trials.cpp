#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"
#include "shim.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

// Sequence 0 is the known text; a continuation is a sequence of its own that shares the known text's cells.
static constexpr uint32_t known_seq = 0;

struct shim_trials {
    llama_context * ctx      = nullptr;
    uint32_t        n_vocab  = 0;
    uint32_t        n_tokens = 0; // of one evaluation, at most
    llama_pos       n_known  = 0;

    // what the evaluation that runs is to leave: of every length-th token, from length - 1 on, K and V at the layers
    const uint8_t * layers = nullptr;
    size_t          length = 1;
    float *         rows   = nullptr;
    size_t          n_rows = 0; // floats left in rows
    int32_t         last   = -1;
    bool            failed = false;

    ~shim_trials() {
        if (ctx) {
            llama_free(ctx);
        }
    }
};

// The layer whose K (which = 'k') or V cache a node writes to; -1 if it does not.
static int32_t written_layer(const ggml_tensor * t, char & which) {
    if (t->op != GGML_OP_SET_ROWS) {
        return -1;
    }
    while (t->view_src) {
        t = t->view_src;
    }
    int32_t il = -1;
    return sscanf(t->name, "cache_%c_l%d", &which, &il) == 2 ? il : -1;
}

// The rows are read where they are stored into the cache, before it rounds them.
static bool on_node(ggml_tensor * t, bool ask, void * user_data) {
    shim_trials & s     = *static_cast<shim_trials *>(user_data);
    char          which = 0;
    const int32_t il    = s.layers ? written_layer(t, which) : -1;
    if (il < 0 || il > s.last || !s.layers[il]) {
        return !ask;
    }
    if (ask) {
        return true;
    }
    const ggml_tensor * rows = t->src[0];
    const size_t        size = ggml_row_size(GGML_TYPE_F32, rows->ne[0]);
    for (int64_t i = (int64_t) s.length - 1; i < rows->ne[1]; i += (int64_t) s.length) {
        if (rows->type != GGML_TYPE_F32 || s.n_rows < (size_t) rows->ne[0]) {
            s.failed = true;
            return false;
        }
        ggml_backend_tensor_get(rows, s.rows, i * rows->nb[1], size);
        s.rows += rows->ne[0];
        s.n_rows -= rows->ne[0];
    }
    return !(il == s.last && which == 'v');
}

shim_trials * shim_trials_new(llama_model * model, uint32_t n_known, uint32_t n_tokens, int32_t n_threads) {
    try {
        auto s      = std::make_unique<shim_trials>();
        s->n_vocab  = llama_vocab_n_tokens(llama_model_get_vocab(model));
        s->n_tokens = n_tokens;

        llama_context_params params = llama_context_default_params();
        params.n_ctx                = n_known + n_tokens;
        params.n_batch              = n_tokens;
        params.n_ubatch             = n_tokens;
        params.n_outputs_max        = SHIM_TRIALS + 1; // one of each sequence: llama.cpp wants no less
        params.n_seq_max            = SHIM_TRIALS + 1;
        params.kv_unified           = true;
        params.n_threads            = n_threads;
        params.n_threads_batch      = n_threads;
        params.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.cb_eval              = on_node;
        params.cb_eval_user_data    = s.get();
        params.no_perf              = true;

        s->ctx = llama_init_from_model(model, params);
        return s->ctx ? s.release() : nullptr;
    } catch (const std::exception &) {
        return nullptr;
    }
}

void shim_trials_free(shim_trials * s) {
    delete s;
}

static int32_t decode(shim_trials & s, const int32_t * tokens, size_t n, size_t length, uint32_t seq, bool output) {
    std::vector<llama_token>    token(tokens, tokens + n);
    std::vector<llama_pos>      pos(n);
    std::vector<int32_t>        n_seq(n, 1);
    std::vector<llama_seq_id>   ids(n);
    std::vector<llama_seq_id *> seqs(n + 1, nullptr);
    std::vector<int8_t>         wanted(n, 0);
    for (size_t i = 0; i < n; ++i) {
        pos[i]  = s.n_known + (llama_pos) (i % length);
        ids[i]  = (llama_seq_id) (seq + i / length);
        seqs[i] = &ids[i];
    }
    wanted[n - 1] = output;

    llama_batch batch = {};
    batch.n_tokens    = (int32_t) n;
    batch.token       = token.data();
    batch.pos         = pos.data();
    batch.n_seq_id    = n_seq.data();
    batch.seq_id      = seqs.data();
    batch.logits      = wanted.data();
    return llama_decode(s.ctx, batch);
}

int32_t shim_trials_know(shim_trials * s, int32_t keep, const int32_t * tokens, size_t n, float * logits) {
    try {
        llama_memory_t memory = llama_get_memory(s->ctx);
        llama_memory_seq_rm(memory, -1, keep, -1);
        s->n_known = keep;
        s->layers  = nullptr;
        while (n > 0) {
            const size_t  now    = std::min<size_t>(n, s->n_tokens);
            const int32_t status = decode(*s, tokens, now, now, known_seq, now == n);
            if (status != 0) {
                return status;
            }
            for (int32_t seq = 1; seq <= SHIM_TRIALS; ++seq) {
                llama_memory_seq_cp(memory, known_seq, seq, s->n_known, s->n_known + (llama_pos) now);
            }
            s->n_known += (llama_pos) now;
            tokens += now;
            n -= now;
        }
        const float * got = llama_get_logits_ith(s->ctx, -1);
        if (!got) {
            return -1;
        }
        memcpy(logits, got, s->n_vocab * sizeof(float));
        return 0;
    } catch (const std::exception &) {
        return -3;
    }
}

int32_t shim_trials_try(shim_trials * s, const int32_t * tokens, size_t n, size_t length, const uint8_t * layers,
                        size_t n_layers, float * rows, size_t n_rows) {
    try {
        s->layers = layers;
        s->length = length;
        s->rows   = rows;
        s->n_rows = n_rows;
        s->failed = false;
        s->last   = -1;
        for (size_t il = 0; il < n_layers; ++il) {
            if (layers[il]) {
                s->last = (int32_t) il;
            }
        }
        const int32_t status = decode(*s, tokens, n, length, 1, false);
        s->layers            = nullptr;
        llama_memory_seq_rm(llama_get_memory(s->ctx), -1, s->n_known, -1);
        return status != 0 ? status : s->failed || s->n_rows != 0 ? -4 : 0;
    } catch (const std::exception &) {
        s->layers = nullptr;
        return -3;
    }
}
