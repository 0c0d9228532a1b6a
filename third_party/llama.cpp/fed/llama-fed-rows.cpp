// Rows between the f16 cache and the wire types, and the rotation of K rows to other positions.

#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"

#include <cmath>
#include <cstring>

// the first value that rounds to infinity in f16
static constexpr float FED_F16_INF = 65520.0f;

// NF3: a block is an f16 scale and FED_NF3_BLOCK codes of 3 bits, packed from the lowest bit of the first byte on. A code
// is a sign (bit 2) and one of the levels that a quantiser of a standard normal distribution has with the least mean
// square error (Lloyd-Max). Several multiples of the block's root mean square are tried as its spread, each with the
// scale that has the least square error for the codes it gives.
static constexpr size_t FED_NF3_BLOCK     = 32;
static constexpr size_t FED_NF3_SIZE      = sizeof(ggml_fp16_t) + FED_NF3_BLOCK * 3 / 8;
static constexpr float  FED_NF3_LEVELS[4] = { 0.2451f, 0.7560f, 1.3440f, 2.1520f };
static constexpr float  FED_NF3_EDGES[3]  = { 0.50055f, 1.0500f, 1.7480f }; // midway between two levels
static constexpr float  FED_NF3_TRIES[6]  = { 0.75f, 0.85f, 0.95f, 1.05f, 1.15f, 1.25f };

// A wire type taken apart.
struct wire_type {
    ggml_type format   = GGML_TYPE_COUNT; // GGML_TYPE_COUNT: not a type of ggml's
    bool      nf3      = false;
    bool      centred  = false;
    bool      hadamard = false;

    bool   valid() const { return nf3 || format != GGML_TYPE_COUNT; }
    size_t block() const { return nf3 ? FED_NF3_BLOCK : (size_t) ggml_blck_size(format); }
    size_t row_size(size_t n_embd) const {
        return nf3 ? n_embd / FED_NF3_BLOCK * FED_NF3_SIZE : ggml_row_size(format, (int64_t) n_embd);
    }
};

static wire_type parse_type(int32_t type) {
    const int32_t flags = LLAMA_FED_TYPE_CENTRED | LLAMA_FED_TYPE_HADAMARD;

    wire_type t;
    t.centred  = type & LLAMA_FED_TYPE_CENTRED;
    t.hadamard = type & LLAMA_FED_TYPE_HADAMARD;
    if (type & ~(LLAMA_FED_TYPE_FORMAT | flags)) {
        return t;
    }
    switch (type & LLAMA_FED_TYPE_FORMAT) {
        case LLAMA_FED_TYPE_F16:  t.format = t.hadamard ? GGML_TYPE_COUNT : GGML_TYPE_F16; break;
        case LLAMA_FED_TYPE_Q8_0: t.format = GGML_TYPE_Q8_0; break;
        case LLAMA_FED_TYPE_Q5_1: t.format = GGML_TYPE_Q5_1; break;
        case LLAMA_FED_TYPE_Q4_1: t.format = GGML_TYPE_Q4_1; break;
        case LLAMA_FED_TYPE_Q4_0: t.format = GGML_TYPE_Q4_0; break;
        case LLAMA_FED_TYPE_NF3:  t.nf3 = true; break;
    }
    return t;
}

size_t llama_fed_rows_size(int32_t type, uint32_t n_embd, size_t n) {
    const wire_type t = parse_type(type);
    if (!t.valid() || n_embd == 0 || n_embd % t.block() != 0) {
        return 0;
    }
    const size_t row  = t.row_size(n_embd);
    const size_t mean = t.centred && n > 0 ? n_embd * sizeof(ggml_fp16_t) : 0;
    return n > (SIZE_MAX - mean) / row ? 0 : mean + row * n;
}

static int32_t check_buffer(int32_t type, uint32_t n_embd, size_t n, const void * data, size_t size) {
    if (!data) {
        return LLAMA_FED_E_ARG;
    }
    const size_t want = llama_fed_rows_size(type, n_embd, n);
    if (want == 0) {
        return LLAMA_FED_E_TYPE;
    }
    return size == want ? LLAMA_FED_OK : LLAMA_FED_E_SIZE;
}

static int32_t check_rows(llama_fed_caches * kv, int32_t il, size_t n, int32_t type_k, const void * k, size_t k_size,
                          int32_t type_v, const void * v, size_t v_size) {
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

// Refuses what an f16 cell cannot hold: one such value would spoil every token that attends to it, masked or not.
static int32_t check_rows_finite(const llama_fed_state & state) {
    bool finite = true;
    for (float x : state.rows) {
        finite &= std::fabs(x) < FED_F16_INF; // false for NaN
    }
    return finite ? LLAMA_FED_OK : LLAMA_FED_E_VALUE;
}

static void nf3_encode_block(const float * x, uint8_t * out) {
    float sum = 0.0f;
    for (size_t i = 0; i < FED_NF3_BLOCK; ++i) {
        sum += x[i] * x[i];
    }
    const float rms   = sqrtf(sum / FED_NF3_BLOCK);
    float       scale = 0.0f;
    float       most  = 0.0f;
    uint8_t     codes[FED_NF3_BLOCK];
    for (size_t t = 0; t < 6; ++t) {
        const float spread = FED_NF3_TRIES[t] * rms;
        float       num    = 0.0f;
        float       den    = 0.0f;
        uint8_t     levels[FED_NF3_BLOCK];
        for (size_t i = 0; i < FED_NF3_BLOCK; ++i) {
            const float   a     = fabsf(x[i]);
            const uint8_t level = (uint8_t) ((a > FED_NF3_EDGES[0] * spread) + (a > FED_NF3_EDGES[1] * spread) +
                                             (a > FED_NF3_EDGES[2] * spread));
            num += a * FED_NF3_LEVELS[level];
            den += FED_NF3_LEVELS[level] * FED_NF3_LEVELS[level];
            levels[i] = level;
        }
        // the error is sum - num^2 / den; a NaN stays, so that the receiver refuses it
        const float fit = num / den * num;
        if (t == 0 || fit > most) {
            scale = num / den;
            most  = fit;
            memcpy(codes, levels, sizeof(codes));
        }
    }
    for (size_t i = 0; i < FED_NF3_BLOCK; ++i) {
        codes[i] |= x[i] < 0.0f ? 4 : 0;
    }
    const ggml_fp16_t d = ggml_fp32_to_fp16(scale);
    memcpy(out, &d, sizeof(d));
    uint8_t * bits = out + sizeof(d);
    memset(bits, 0, FED_NF3_SIZE - sizeof(d));
    for (size_t i = 0; i < FED_NF3_BLOCK; ++i) {
        const size_t at = 3 * i;
        bits[at / 8] |= (uint8_t) (codes[i] << at % 8);
        if (at % 8 > 5) {
            bits[at / 8 + 1] |= (uint8_t) (codes[i] >> (8 - at % 8));
        }
    }
}

static void nf3_decode_block(const uint8_t * in, float * x) {
    ggml_fp16_t d;
    memcpy(&d, in, sizeof(d));
    const float     scale = ggml_fp16_to_fp32(d);
    const uint8_t * bits  = in + sizeof(d);
    for (size_t i = 0; i < FED_NF3_BLOCK; ++i) {
        const size_t at   = 3 * i;
        unsigned     code = bits[at / 8] >> at % 8;
        if (at % 8 > 5) {
            code |= (unsigned) bits[at / 8 + 1] << (8 - at % 8);
        }
        const float level = FED_NF3_LEVELS[code & 3] * scale;
        x[i]              = code & 4 ? -level : level;
    }
}

// Multiplies rows by the Hadamard matrix, which is its own inverse.
static void hadamard(std::vector<float> & rows, size_t n_embd) {
    size_t n = 1;
    while (n < 128 && n_embd % (2 * n) == 0) {
        n *= 2;
    }
    const float scale = (float) (1.0 / sqrt((double) n));
    for (float *x = rows.data(), *end = x + rows.size(); x != end; x += n) {
        for (size_t h = 1; h < n; h *= 2) {
            for (size_t i = 0; i < n; i += 2 * h) {
                for (size_t j = i; j < i + h; ++j) {
                    const float a = x[j];
                    const float b = x[j + h];
                    x[j]          = a + b;
                    x[j + h]      = a - b;
                }
            }
        }
        for (size_t i = 0; i < n; ++i) {
            x[i] *= scale;
        }
    }
}

// state.rows, f32 [n][n_embd], become what the type's format holds; the mean is put at out, which is moved behind it
static void centre(llama_fed_state & state, size_t n_embd, uint8_t *& out) {
    const size_t        n = state.rows.size() / n_embd;
    std::vector<double> sum(n_embd, 0.0);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n_embd; ++j) {
            sum[j] += state.rows[i * n_embd + j];
        }
    }
    std::vector<float> & mean = state.mean;
    ggml_fp16_t *        wire = (ggml_fp16_t *) out;
    mean.resize(n_embd);
    for (size_t j = 0; j < n_embd; ++j) {
        wire[j] = ggml_fp32_to_fp16((float) (sum[j] / (double) n));
        mean[j] = ggml_fp16_to_fp32(wire[j]);
    }
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n_embd; ++j) {
            state.rows[i * n_embd + j] -= mean[j];
        }
    }
    out += n_embd * sizeof(ggml_fp16_t);
}

// by how much rows at pos are rotated to stand at position 0, or back
static std::vector<int32_t> turns(const llama_pos * pos, size_t n, int32_t sign) {
    std::vector<int32_t> by(n);
    for (size_t i = 0; i < n; ++i) {
        by[i] = sign * pos[i];
    }
    return by;
}

static int32_t encode_rows(llama_fed_state & state, const llama_fed_rope * rope, const ggml_tensor * t,
                           const std::vector<uint32_t> & cells, const llama_pos * pos, int32_t wire, uint8_t * out) {
    const wire_type type = parse_type(wire);
    if (type.format == GGML_TYPE_F16 && !type.centred) {
        get_raw(t, cells, out);
        return LLAMA_FED_OK;
    }
    const size_t n_embd = (size_t) t->ne[0];
    const size_t n      = cells.size();
    state.raw.resize(t->nb[1] * n);
    state.rows.resize(n_embd * n);
    get_raw(t, cells, state.raw.data());
    ggml_fp16_to_fp32_row((const ggml_fp16_t *) state.raw.data(), state.rows.data(), (int64_t) (n_embd * n));
    if (type.centred) {
        if (rope && rope->kind == llama_fed_rope::ROPE) {
            const int32_t res = llama_fed_rotate(state, *rope, turns(pos, n, -1));
            if (res != LLAMA_FED_OK) {
                return res;
            }
        }
        centre(state, n_embd, out);
    }
    if (type.hadamard) {
        hadamard(state.rows, n_embd);
    }
    if (type.nf3) {
        for (size_t i = 0; i < n_embd * n / FED_NF3_BLOCK; ++i) {
            nf3_encode_block(state.rows.data() + i * FED_NF3_BLOCK, out + i * FED_NF3_SIZE);
        }
    } else if (type.format == GGML_TYPE_F16) {
        ggml_fp32_to_fp16_row(state.rows.data(), (ggml_fp16_t *) out, (int64_t) (n_embd * n));
    } else {
        ggml_quantize_chunk(type.format, state.rows.data(), out, 0, (int64_t) n, (int64_t) n_embd, nullptr);
    }
    return LLAMA_FED_OK;
}

// wire rows to state.rows, f32 [n][n_embd]; K is rotated by what follows from type, pos and shift
static int32_t decode_rows(llama_fed_state & state, const llama_fed_rope * rope, size_t n_embd, const llama_pos * pos,
                           size_t n, int32_t shift, int32_t wire, const uint8_t * in) {
    const wire_type type = parse_type(wire);
    state.rows.resize(n_embd * n);
    const ggml_fp16_t * mean = (const ggml_fp16_t *) in;
    if (type.centred) {
        in += n_embd * sizeof(ggml_fp16_t);
    }
    if (type.nf3) {
        for (size_t i = 0; i < n_embd * n / FED_NF3_BLOCK; ++i) {
            nf3_decode_block(in + i * FED_NF3_SIZE, state.rows.data() + i * FED_NF3_BLOCK);
        }
    } else {
        ggml_get_type_traits(type.format)->to_float(in, state.rows.data(), (int64_t) (n_embd * n));
    }
    if (type.hadamard) {
        hadamard(state.rows, n_embd);
    }
    if (type.centred) {
        state.mean.resize(n_embd);
        ggml_fp16_to_fp32_row(mean, state.mean.data(), (int64_t) n_embd);
        for (size_t i = 0; i < n; ++i) {
            for (size_t j = 0; j < n_embd; ++j) {
                state.rows[i * n_embd + j] += state.mean[j];
            }
        }
    }
    int32_t res = check_rows_finite(state);
    if (res == LLAMA_FED_OK && rope && rope->kind == llama_fed_rope::ROPE && (type.centred || shift != 0)) {
        res = llama_fed_rotate(state, *rope, type.centred ? turns(pos, n, 1) : std::vector<int32_t>(n, shift));
        if (res == LLAMA_FED_OK) {
            res = check_rows_finite(state); // a rotation may push a large value over the edge
        }
    }
    return res;
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

// With ggml's own RoPE.
int32_t llama_fed_rotate(llama_fed_state & state, const llama_fed_rope & rope, const std::vector<int32_t> & by) {
    const int64_t  n       = (int64_t) by.size();
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

int32_t llama_fed_check_rotation(const llama_fed_state & state, const llama_fed_layer & layer) {
    if (layer.rope.kind == llama_fed_rope::UNSEEN) {
        return LLAMA_FED_E_STATE;
    }
    const bool fixed = layer.rope.kind == llama_fed_rope::UNSHIFTABLE || state.absolute_positions;
    return fixed ? LLAMA_FED_E_UNSUPPORTED : LLAMA_FED_OK;
}

static int32_t rows_get(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t type_k, void * k,
                        size_t k_size, int32_t type_v, void * v, size_t v_size) {
    llama_fed_caches * kv  = llama_fed_cache(ctx);
    int32_t            res = check_rows(kv, il, n, type_k, k, k_size, type_v, v, v_size);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    llama_fed_state &       state = kv->get_state();
    const llama_fed_layer & layer = state.layers[il];
    if (parse_type(type_k).centred) {
        res = llama_fed_check_rotation(state, layer);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    std::vector<uint32_t> cells;
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    res = encode_rows(state, &layer.rope, layer.k, cells, pos, type_k, (uint8_t *) k);
    return res == LLAMA_FED_OK ? encode_rows(state, nullptr, layer.v, cells, pos, type_v, (uint8_t *) v) : res;
}

static int32_t rows_set(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t shift, int32_t type_k,
                        const void * k, size_t k_size, int32_t type_v, const void * v, size_t v_size) {
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
    if (shift != 0 || parse_type(type_k).centred) {
        res = llama_fed_check_rotation(state, layer);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    std::vector<uint32_t> cells;
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }

    // V is checked before K is written: a refused call leaves the cells as they were
    res = decode_rows(state, nullptr, (size_t) layer.v->ne[0], pos, n, 0, type_v, (const uint8_t *) v);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    rows_to_raw(state, state.raw_v);
    res = decode_rows(state, &layer.rope, (size_t) layer.k->ne[0], pos, n, shift, type_k, (const uint8_t *) k);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    rows_to_raw(state, state.raw);
    set_raw(layer.k, cells, state.raw.data());
    set_raw(layer.v, cells, state.raw_v.data());
    kv->written(il, pos, n);
    return LLAMA_FED_OK;
}

int32_t llama_fed_rows_get(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t type_k, void * k,
                           size_t k_size, int32_t type_v, void * v, size_t v_size) {
    return llama_fed_guard([&] { return rows_get(ctx, il, pos, n, type_k, k, k_size, type_v, v, v_size); });
}

int32_t llama_fed_rows_set(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t shift,
                           int32_t type_k, const void * k, size_t k_size, int32_t type_v, const void * v,
                           size_t v_size) {
    return llama_fed_guard([&] { return rows_set(ctx, il, pos, n, shift, type_k, k, k_size, type_v, v, v_size); });
}
