#include "llama-fed-attention.h"

#include "ggml-alloc.h"

#include <algorithm>
#include <cmath>
#include <cstring>

static constexpr size_t FED_MAX_NODES = 16;

// multiplications below which a second thread costs more than it brings
static constexpr double FED_THREAD_WORK = 2e6;

// scores that are held at once; more queries go in several chunks
static constexpr size_t FED_MAX_SCORES = 2 << 20;

std::unique_ptr<llama_fed_attention> llama_fed_attention::create(int32_t n_threads) {
    std::unique_ptr<llama_fed_attention> a(new (std::nothrow) llama_fed_attention());
    if (!a) {
        return nullptr;
    }
    a->cpu.reset(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr));
    if (!a->cpu) {
        return nullptr;
    }
    // through the registry: with run-time CPU variants ggml-cpu is not linked in
    ggml_backend_reg_t reg  = ggml_backend_dev_backend_reg(ggml_backend_get_device(a->cpu.get()));
    const auto         find = [&](const char * name) { return ggml_backend_reg_get_proc_address(reg, name); };
    auto               make = (decltype(&ggml_threadpool_new)) find("ggml_threadpool_new");
    auto               set  = (decltype(&ggml_backend_cpu_set_threadpool)) find("ggml_backend_cpu_set_threadpool");
    a->pool_free            = (decltype(&ggml_threadpool_free)) find("ggml_threadpool_free");
    a->set_threads          = (ggml_backend_set_n_threads_t) find("ggml_backend_set_n_threads");
    if (make && set && a->pool_free && a->set_threads) {
        n_threads                     = std::clamp(n_threads, 1, GGML_MAX_N_THREADS);
        ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
        params.poll                   = 0; // calls come a network's round trip apart: waiting for them burns a core
        a->pool                       = make(&params);
        if (a->pool) {
            set(a->cpu.get(), a->pool);
            a->n_threads = n_threads;
        }
    }
    if (a->set_threads) {
        a->set_threads(a->cpu.get(), 1);
    }
    a->meta.resize(2 * FED_MAX_NODES * ggml_tensor_overhead() + ggml_graph_overhead_custom(2 * FED_MAX_NODES, false));
    return a;
}

llama_fed_attention::~llama_fed_attention() {
    cpu.reset(); // before the threads that it uses
    if (pool) {
        pool_free(pool);
    }
}

bool llama_fed_attention::reserve(size_t size) {
    size += FED_MAX_NODES * ggml_backend_get_alignment(cpu.get());
    if (!buffer || ggml_backend_buffer_get_size(buffer.get()) < size) {
        buffer.reset(); // the old one first
        buffer.reset(ggml_backend_alloc_buffer(cpu.get(), size + size / 2));
    }
    return buffer != nullptr;
}

bool llama_fed_attention::compute(ggml_cgraph * graph, double n_products) {
    if (n_threads > 1) {
        set_threads(cpu.get(), n_products < FED_THREAD_WORK ? 1 : n_threads);
    }
    return ggml_backend_graph_compute(cpu.get(), graph) == GGML_STATUS_SUCCESS;
}

// The bytes of a tensor's data from its first element to its last.
static size_t n_extent(const ggml_tensor * t) {
    return ggml_nbytes(t);
}

// What the scores of a layer go through before the mask: the node to be scaled by scale.
static ggml_tensor * cap_scores(ggml_context * ctx, ggml_tensor * scores, float softcap, float & scale) {
    if (softcap == 0.0f) {
        return scores;
    }
    scores = ggml_scale_inplace(ctx, ggml_tanh_inplace(ctx, ggml_scale_inplace(ctx, scores, scale / softcap)), softcap);
    scale  = 1.0f;
    return scores;
}

// log Σ exp of a row of scores, from the probabilities that they became.
static float log_sum(const float * scores, const float * probabilities, size_t n, float scale) {
    const size_t most = (size_t) (std::max_element(probabilities, probabilities + n) - probabilities);
    return scores[most] * scale - logf(probabilities[most]);
}

int32_t llama_fed_attention::sums(const ggml_tensor * node, float * lse) {
    const ggml_tensor * const from[] = { node->src[0], node->src[1], node->src[3], node->src[4] };
    float                     scale;
    float                     softcap;
    memcpy(&scale, (const float *) node->op_params + 0, sizeof(scale));
    memcpy(&softcap, (const float *) node->op_params + 2, sizeof(softcap));

    const size_t n      = (size_t) from[0]->ne[1];
    const size_t n_head = (size_t) from[0]->ne[2];
    const size_t n_kv   = (size_t) from[1]->ne[1];

    // tensors of other devices are copied behind each other
    size_t elsewhere = 0;
    for (const ggml_tensor * t : from) {
        if (t && !ggml_backend_buffer_is_host(t->view_src ? t->view_src->buffer : t->buffer)) {
            elsewhere += GGML_PAD(n_extent(t), 64);
        }
    }
    const size_t n_scores = n_kv * n * n_head;
    if (!reserve(2 * n_scores * sizeof(float))) {
        return LLAMA_FED_E_MEMORY;
    }
    copy.resize(elsewhere + 64);

    const ggml_init_params params = { meta.size(), meta.data(), true };
    ggml_context_ptr       ctx{ ggml_init(params) };

    // leaves with the data of the model's graph: what computed them must not be computed again
    ggml_tensor * leaves[4] = {};
    uint8_t *     next      = (uint8_t *) GGML_PAD((uintptr_t) copy.data(), 64);
    for (int i = 0; i < 4; ++i) {
        const ggml_tensor * t = from[i];
        if (!t) {
            continue;
        }
        leaves[i] = ggml_new_tensor(ctx.get(), t->type, GGML_MAX_DIMS, t->ne);
        memcpy(leaves[i]->nb, t->nb, sizeof(t->nb));
        leaves[i]->buffer = t->view_src ? t->view_src->buffer : t->buffer;
        leaves[i]->data   = t->data;
        if (!ggml_backend_buffer_is_host(leaves[i]->buffer)) {
            ggml_backend_tensor_get(t, next, 0, n_extent(t));
            leaves[i]->buffer = buffer.get();
            leaves[i]->data   = next;
            next += GGML_PAD(n_extent(t), 64);
        }
    }
    ggml_tensor * scores = ggml_mul_mat(ctx.get(), leaves[1], leaves[0]); // [n_kv, n, n_head]
    ggml_tensor * capped = cap_scores(ctx.get(), scores, softcap, scale);
    ggml_tensor * p      = ggml_soft_max_ext(ctx.get(), capped, leaves[2], scale, 0.0f);
    if (leaves[3]) {
        ggml_soft_max_add_sinks(p, leaves[3]);
    }
    ggml_tallocr memory = ggml_tallocr_new(buffer.get());
    ggml_tallocr_alloc(&memory, scores);
    ggml_tallocr_alloc(&memory, p);

    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), FED_MAX_NODES, false);
    ggml_build_forward_expand(graph, p);
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * t = ggml_graph_node(graph, i);
        if (!t->buffer) { // in place
            ggml_backend_view_init(t);
        }
    }
    if (!compute(graph, (double) n_scores * (double) from[0]->ne[0])) {
        return LLAMA_FED_E_MEMORY;
    }
    const float * s = (const float *) scores->data;
    const float * q = (const float *) p->data;
    for (size_t head = 0; head < n_head; ++head) {
        for (size_t i = 0; i < n; ++i, s += n_kv, q += n_kv) {
            lse[i * n_head + head] = log_sum(s, q, n_kv, scale);
        }
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_attention::attend(const rows & r, llama_pos shift, llama_pos first, size_t n, const float * q,
                                    float * out, float * lse) {
    const llama_fed_heads & heads   = r.layer->heads;
    const size_t            n_chunk = std::max<size_t>(1, FED_MAX_SCORES / ((size_t) r.k->ne[1] * heads.n_head));
    for (size_t i = 0; i < n; i += n_chunk) {
        const int32_t res = attend_chunk(r, shift, first + (llama_pos) i, std::min(n_chunk, n - i),
                                         q + i * heads.n_head * heads.dim_k, out + i * heads.n_head * heads.dim_v,
                                         lse + i * heads.n_head);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_attention::attend_chunk(const rows & r, llama_pos shift, llama_pos first, size_t n, const float * q,
                                          float * out, float * lse) {
    const llama_fed_heads & heads  = r.layer->heads;
    const llama_fed_rope &  rope   = r.layer->rope;
    const size_t            n_rows = (size_t) r.k->ne[1];
    const size_t            n_head = heads.n_head;
    const bool              turned = shift != 0 && rope.kind == llama_fed_rope::ROPE;

    // a window hides the rows before the first that each token sees
    const auto seen_from = [&](size_t i) -> size_t {
        if (heads.n_window == 0) {
            return 0;
        }
        const int64_t before = (int64_t) first + (int64_t) i - (int64_t) heads.n_window - shift;
        return (size_t) (std::upper_bound(r.pos, r.pos + n_rows, before) - r.pos);
    };
    const size_t begin  = seen_from(0);
    const bool   masked = seen_from(n - 1) > begin;
    const size_t n_kv   = n_rows - begin;
    if (n_kv == 0) {
        std::fill(out, out + n * n_head * heads.dim_v, 0.0f);
        std::fill(lse, lse + n * n_head, -INFINITY);
        return LLAMA_FED_OK;
    }
    const size_t n_q      = heads.dim_k * n_head * n;
    const size_t n_scores = n_kv * n * n_head;
    const size_t n_out    = heads.dim_v * n_head * n;
    if (!reserve((2 * n_q + 2 * n_scores + n_out + n + (masked ? n_kv * n : 0) + rope.factors.size()) *
                 sizeof(float))) {
        return LLAMA_FED_E_MEMORY;
    }
    const ggml_init_params params = { meta.size(), meta.data(), true };
    ggml_context_ptr       ctx{ ggml_init(params) };
    ggml_tallocr           memory = ggml_tallocr_new(buffer.get());
    const auto             place  = [&](ggml_tensor * t) {
        ggml_tallocr_alloc(&memory, t);
        return t;
    };

    // [head dim, n_head, n], as callers have it
    ggml_tensor * queries = place(ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, heads.dim_k, n_head, n));
    ggml_backend_tensor_set(queries, q, 0, n_q * sizeof(float));
    if (turned) {
        ggml_tensor * by = place(ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n));
        std::fill_n((int32_t *) by->data, n, -shift);
        ggml_tensor * factors = nullptr;
        if (!rope.factors.empty()) {
            factors = place(ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, (int64_t) rope.factors.size()));
            ggml_backend_tensor_set(factors, rope.factors.data(), 0, ggml_nbytes(factors));
        }
        queries = ggml_rope_ext(ctx.get(), queries, by, factors, rope.n_dims, rope.mode, rope.n_ctx_orig,
                                rope.freq_base, rope.freq_scale, rope.ext_factor, rope.attn_factor, rope.beta_fast,
                                rope.beta_slow);
        ggml_rope_set_offset(queries, rope.n_offs);
        place(queries);
    }
    const auto part = [&](const ggml_tensor * t, int64_t ne0, int64_t ne1, size_t offset) {
        ggml_tensor * view = ggml_new_tensor_3d(ctx.get(), t->type, ne0, ne1, t->ne[2]);
        memcpy(view->nb, t->nb, sizeof(t->nb));
        view->buffer = t->buffer;
        view->data   = (uint8_t *) t->data + offset;
        return view;
    };
    ggml_tensor * k      = part(r.k, heads.dim_k, (int64_t) n_kv, begin * r.k->nb[1]);
    ggml_tensor * vt     = part(r.vt, (int64_t) n_kv, heads.dim_v, begin * r.vt->nb[0]);
    float         scale  = heads.scale;
    ggml_tensor * mine   = ggml_permute(ctx.get(), queries, 0, 2, 1, 3);
    ggml_tensor * scores = place(ggml_mul_mat(ctx.get(), k, mine)); // [n_kv, n, n_head]
    ggml_tensor * capped = cap_scores(ctx.get(), scores, heads.softcap, scale);
    ggml_tensor * hide   = nullptr;
    if (masked) {
        hide = place(ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n_kv, n));
        for (size_t i = 0; i < n; ++i) {
            float *      row    = (float *) hide->data + i * n_kv;
            const size_t hidden = seen_from(i) - begin;
            std::fill_n(row, hidden, -INFINITY);
            std::fill(row + hidden, row + n_kv, 0.0f);
        }
    }
    ggml_tensor * p   = place(ggml_soft_max_ext(ctx.get(), capped, hide, scale, 0.0f));
    ggml_tensor * sum = place(ggml_mul_mat(ctx.get(), vt, p)); // [head dim, n, n_head]

    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), FED_MAX_NODES, false);
    ggml_build_forward_expand(graph, sum);
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
        ggml_tensor * t = ggml_graph_node(graph, i);
        if (!t->buffer) { // views, and what is done in place
            ggml_backend_view_init(t);
        }
    }
    if (!compute(graph, (double) n_scores * (heads.dim_k + heads.dim_v))) {
        return LLAMA_FED_E_MEMORY;
    }
    const float * s = (const float *) scores->data;
    const float * w = (const float *) p->data;
    const float * o = (const float *) sum->data;
    for (size_t head = 0; head < n_head; ++head) {
        for (size_t i = 0; i < n; ++i, s += n_kv, w += n_kv, o += heads.dim_v) {
            float * to = out + (i * n_head + head) * heads.dim_v;
            if (masked && seen_from(i) == n_rows) {
                std::fill_n(to, heads.dim_v, 0.0f);
                lse[i * n_head + head] = -INFINITY;
                continue;
            }
            memcpy(to, o, heads.dim_v * sizeof(float));
            lse[i * n_head + head] = log_sum(s, w, n_kv, scale);
        }
    }
    return LLAMA_FED_OK;
}
