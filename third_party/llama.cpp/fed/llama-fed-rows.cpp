// Rows between the f16 cache and the wire types, and the rotation of K rows to other positions.

#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"

#include <cmath>
#include <cstring>

// the first value that rounds to infinity in f16
static constexpr float FED_F16_INF = 65520.0f;

static bool is_wire_type(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q5_1:
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_Q4_0: return true;
        default:             return false;
    }
}

size_t llama_fed_rows_size(ggml_type type, uint32_t n_embd, size_t n) {
    if (!is_wire_type(type) || n_embd == 0 || n_embd % ggml_blck_size(type) != 0) {
        return 0;
    }
    const size_t row = ggml_row_size(type, n_embd);
    return n > SIZE_MAX / row ? 0 : row * n;
}

static int32_t check_buffer(ggml_type type, uint32_t n_embd, size_t n, const void * data, size_t size) {
    if (!data) {
        return LLAMA_FED_E_ARG;
    }
    const size_t want = llama_fed_rows_size(type, n_embd, n);
    if (want == 0) {
        return LLAMA_FED_E_TYPE;
    }
    return size == want ? LLAMA_FED_OK : LLAMA_FED_E_SIZE;
}

static int32_t check_rows(llama_fed_caches * kv, int32_t il, size_t n, ggml_type type_k, const void * k, size_t k_size,
                          ggml_type type_v, const void * v, size_t v_size) {
    if (!kv) {
        return LLAMA_FED_E_CONTEXT;
    }
    const std::vector<llama_fed_layer> & layers = kv->get_state().layers;
    if (il < 0 || (size_t) il >= layers.size() || !layers[il].k) {
        return LLAMA_FED_E_LAYER;
    }
    const int32_t res = check_buffer(type_k, (uint32_t) layers[il].k->ne[0], n, k, k_size);
    return res == LLAMA_FED_OK ? check_buffer(type_v, (uint32_t) layers[il].v->ne[0], n, v, v_size) : res;
}

// calls fn(first index, count, byte offset in t) for each run of neighbouring cells
template <typename F> static void for_runs(const std::vector<uint32_t> & cells, const ggml_tensor * t, F fn) {
    for (size_t i = 0; i < cells.size();) {
        size_t j = i + 1;
        while (j < cells.size() && cells[j] == cells[j - 1] + 1) {
            ++j;
        }
        fn(i, j - i, cells[i] * t->nb[1]);
        i = j;
    }
}

// f16 rows of the cache, [n][n_embd]
static void get_raw(const ggml_tensor * t, const std::vector<uint32_t> & cells, uint8_t * out) {
    const size_t row = t->nb[1];
    for_runs(cells, t,
             [&](size_t i, size_t n, size_t offset) { ggml_backend_tensor_get(t, out + i * row, offset, n * row); });
}

static void set_raw(ggml_tensor * t, const std::vector<uint32_t> & cells, const uint8_t * in) {
    const size_t row = t->nb[1];
    for_runs(cells, t,
             [&](size_t i, size_t n, size_t offset) { ggml_backend_tensor_set(t, in + i * row, offset, n * row); });
}

static void encode_rows(llama_fed_state & state, const ggml_tensor * t, const std::vector<uint32_t> & cells,
                        ggml_type type, void * out) {
    if (type == GGML_TYPE_F16) {
        get_raw(t, cells, (uint8_t *) out);
        return;
    }
    const int64_t n_embd = t->ne[0];
    const int64_t n      = (int64_t) cells.size();
    state.raw.resize(t->nb[1] * n);
    state.rows.resize(n_embd * n);
    get_raw(t, cells, state.raw.data());
    ggml_fp16_to_fp32_row((const ggml_fp16_t *) state.raw.data(), state.rows.data(), n_embd * n);
    ggml_quantize_chunk(type, state.rows.data(), out, 0, n, n_embd, nullptr);
}

// wire rows to state.rows, f32 [n][n_embd]
static void decode_rows(llama_fed_state & state, ggml_type type, const void * in, int64_t n_values) {
    state.rows.resize(n_values);
    ggml_get_type_traits(type)->to_float(in, state.rows.data(), n_values);
}

// Refuses what an f16 cell cannot hold: one such value would spoil every token that attends to it, masked or not.
static int32_t check_rows_finite(const llama_fed_state & state) {
    bool finite = true;
    for (float x : state.rows) {
        finite &= std::fabs(x) < FED_F16_INF; // false for NaN
    }
    return finite ? LLAMA_FED_OK : LLAMA_FED_E_VALUE;
}

static ggml_backend_t cpu_backend(llama_fed_state & state) {
    if (!state.cpu) {
        ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
        if (!backend) {
            return nullptr;
        }
        state.cpu.reset(backend, ggml_backend_free);

        // the rotation is small: more threads would cost more than they bring
        ggml_backend_reg_t reg           = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
        auto               set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
            reg, "ggml_backend_set_n_threads");
        if (set_n_threads) {
            set_n_threads(backend, 1);
        }
    }
    return state.cpu.get();
}

// Rotates state.rows, n K rows, by shift positions, with ggml's own RoPE.
static int32_t rotate_rows(llama_fed_state & state, const llama_fed_rope & rope, int64_t n, int32_t shift) {
    ggml_backend_t backend = cpu_backend(state);
    if (!backend) {
        return LLAMA_FED_E_MEMORY;
    }
    const ggml_init_params meta = { 8 * ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false), nullptr, true };
    ggml_context_ptr       ctx{ ggml_init(meta) };

    ggml_tensor * rows    = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, rope.head_dim, rope.n_head, n);
    ggml_tensor * shifts  = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n);
    ggml_tensor * factors = nullptr;
    if (!rope.factors.empty()) {
        factors = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, (int64_t) rope.factors.size());
    }
    ggml_tensor * out = ggml_rope_ext_inplace(ctx.get(), rows, shifts, factors, rope.n_dims, rope.mode, rope.n_ctx_orig,
                                              rope.freq_base, rope.freq_scale, rope.ext_factor, rope.attn_factor,
                                              rope.beta_fast, rope.beta_slow);
    ggml_rope_set_offset(out, rope.n_offs);
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), 8, false);
    ggml_build_forward_expand(graph, out);

    ggml_backend_buffer_ptr buffer{ ggml_backend_alloc_ctx_tensors(ctx.get(), backend) };
    if (!buffer) {
        return LLAMA_FED_E_MEMORY;
    }
    const std::vector<int32_t> by(n, shift);
    ggml_backend_tensor_set(shifts, by.data(), 0, ggml_nbytes(shifts));
    ggml_backend_tensor_set(rows, state.rows.data(), 0, ggml_nbytes(rows));
    if (factors) {
        ggml_backend_tensor_set(factors, rope.factors.data(), 0, ggml_nbytes(factors));
    }
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        return LLAMA_FED_E_MEMORY;
    }
    ggml_backend_tensor_get(out, state.rows.data(), 0, ggml_nbytes(out));
    return LLAMA_FED_OK;
}

// state.rows, f32, to f16 in raw
static void rows_to_raw(const llama_fed_state & state, std::vector<uint8_t> & raw) {
    raw.resize(state.rows.size() * sizeof(ggml_fp16_t));
    ggml_fp32_to_fp16_row(state.rows.data(), (ggml_fp16_t *) raw.data(), (int64_t) state.rows.size());
}

static int32_t rows_get(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, ggml_type type_k, void * k,
                        size_t k_size, ggml_type type_v, void * v, size_t v_size) {
    llama_fed_caches * kv  = llama_fed_cache(ctx);
    int32_t            res = check_rows(kv, il, n, type_k, k, k_size, type_v, v, v_size);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    llama_fed_state &       state = kv->get_state();
    const llama_fed_layer & layer = state.layers[il];

    std::vector<uint32_t> cells;
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    encode_rows(state, layer.k, cells, type_k, k);
    encode_rows(state, layer.v, cells, type_v, v);
    return LLAMA_FED_OK;
}

static int32_t rows_set(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t shift,
                        ggml_type type_k, const void * k, size_t k_size, ggml_type type_v, const void * v,
                        size_t v_size) {
    llama_fed_caches * kv  = llama_fed_cache(ctx);
    int32_t            res = check_rows(kv, il, n, type_k, k, k_size, type_v, v, v_size);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    llama_fed_state &       state = kv->get_state();
    const llama_fed_layer & layer = state.layers[il];
    if (!layer.sync) {
        return LLAMA_FED_E_LAYER;
    }
    if (shift != 0 && layer.rope.kind == llama_fed_rope::UNSEEN) {
        return LLAMA_FED_E_STATE;
    }
    if (shift != 0 && (layer.rope.kind == llama_fed_rope::UNSHIFTABLE || state.absolute_positions)) {
        return LLAMA_FED_E_UNSUPPORTED;
    }
    std::vector<uint32_t> cells;
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }

    // V is checked before K is written: a refused call leaves the cells as they were
    const int64_t n_k = layer.k->ne[0] * (int64_t) n;
    const int64_t n_v = layer.v->ne[0] * (int64_t) n;

    decode_rows(state, type_v, v, n_v);
    res = check_rows_finite(state);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    if (type_v != GGML_TYPE_F16) {
        rows_to_raw(state, state.raw_v);
    }
    decode_rows(state, type_k, k, n_k);
    res = check_rows_finite(state);
    if (res == LLAMA_FED_OK && shift != 0 && layer.rope.kind == llama_fed_rope::ROPE) {
        res = rotate_rows(state, layer.rope, (int64_t) n, shift);
        if (res == LLAMA_FED_OK) {
            res = check_rows_finite(state); // a rotation may push a large value over the edge
        }
    }
    if (res != LLAMA_FED_OK) {
        return res;
    }
    if (type_k == GGML_TYPE_F16 && shift == 0) {
        set_raw(layer.k, cells, (const uint8_t *) k);
    } else {
        rows_to_raw(state, state.raw);
        set_raw(layer.k, cells, state.raw.data());
    }
    set_raw(layer.v, cells, type_v == GGML_TYPE_F16 ? (const uint8_t *) v : state.raw_v.data());
    return LLAMA_FED_OK;
}

int32_t llama_fed_rows_get(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, ggml_type type_k, void * k,
                           size_t k_size, ggml_type type_v, void * v, size_t v_size) {
    return llama_fed_guard([&] { return rows_get(ctx, il, pos, n, type_k, k, k_size, type_v, v, v_size); });
}

int32_t llama_fed_rows_set(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t shift,
                           ggml_type type_k, const void * k, size_t k_size, ggml_type type_v, const void * v,
                           size_t v_size) {
    return llama_fed_guard([&] { return rows_set(ctx, il, pos, n, shift, type_k, k, k_size, type_v, v, v_size); });
}
