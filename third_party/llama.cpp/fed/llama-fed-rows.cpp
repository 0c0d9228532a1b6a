// Rows between the f16 cache and the wire types. Some rows at a time go through all steps while they are in the first cache
// of a core (llama-fed-codec.h); nothing is kept in between, so that a row is read once and written once.

#include "llama-fed-codec.h"
#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// elements that are worked on together: 16 KiB of floats
static constexpr size_t FED_TILE = 4096;

// A wire type taken apart.
struct wire_type {
    const llama_fed_format * format   = nullptr; // nullptr: there is no such type
    bool                     plain    = false;   // f16 and nothing else: bytes are copied
    bool                     centred  = false;
    bool                     hadamard = false;

    size_t row_size(size_t n_embd) const { return n_embd / format->group * format->size; }
    size_t mean_size(size_t n_embd) const { return centred ? n_embd * sizeof(ggml_fp16_t) : 0; }
};

static wire_type parse_type(int32_t type) {
    const int32_t           flags = LLAMA_FED_TYPE_CENTRED | LLAMA_FED_TYPE_HADAMARD;
    const llama_fed_codec & codec = llama_fed_codec_best();

    wire_type t;
    if (type & ~(LLAMA_FED_TYPE_FORMAT | flags)) {
        return t;
    }
    t.centred  = type & LLAMA_FED_TYPE_CENTRED;
    t.hadamard = type & LLAMA_FED_TYPE_HADAMARD;
    switch (type & LLAMA_FED_TYPE_FORMAT) {
        case LLAMA_FED_TYPE_F16:
            t.format = t.hadamard ? nullptr : &codec.f16;
            t.plain  = !t.centred;
            break;
        case LLAMA_FED_TYPE_Q8_0: t.format = &codec.q8_0; break;
        case LLAMA_FED_TYPE_Q5_1: t.format = &codec.q5_1; break;
        case LLAMA_FED_TYPE_Q4_1: t.format = &codec.q4_1; break;
        case LLAMA_FED_TYPE_Q4_0: t.format = &codec.q4_0; break;
        case LLAMA_FED_TYPE_NF3:  t.format = &codec.nf3; break;
    }
    return t;
}

size_t llama_fed_rows_size(int32_t type, uint32_t n_embd, size_t n) {
    const wire_type t = parse_type(type);
    if (!t.format || n_embd == 0 || n_embd % t.format->group != 0) {
        return 0;
    }
    const size_t row  = t.row_size(n_embd);
    const size_t mean = n > 0 ? t.mean_size(n_embd) : 0;
    return n > (SIZE_MAX - mean) / row ? 0 : mean + row * n;
}

static int32_t check_buffer(int32_t type, uint32_t n_embd, size_t n, const void * data, size_t size) {
    if (!data || n == 0) {
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

// the largest power of two that divides a row, but at most 128
static size_t hadamard_group(size_t n_embd) {
    size_t n = 1;
    while (n < 128 && n_embd % (2 * n) == 0) {
        n *= 2;
    }
    return n;
}

// calls fn(first index, count) for each run of neighbouring cells
template <typename F> static void for_runs(const std::vector<uint32_t> & cells, F fn) {
    for (size_t i = 0; i < cells.size();) {
        size_t j = i + 1;
        while (j < cells.size() && cells[j] == cells[j - 1] + 1) {
            ++j;
        }
        fn(i, j - i);
        i = j;
    }
}

// calls fn(first index, count) for rows that fit into a tile together
template <typename F> static int32_t for_tiles(size_t n, size_t n_embd, F fn) {
    const size_t most = std::max<size_t>(FED_TILE / n_embd, 1);
    for (size_t i = 0; i < n; i += most) {
        const int32_t res = fn(i, std::min(most, n - i));
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    return LLAMA_FED_OK;
}

// One layer's K or V rows at some cells: where they are, or a copy of rows that are on another device.
struct cache_rows {
    ggml_tensor *                 tensor; // [n_embd, n_cells] f16
    const std::vector<uint32_t> & cells;
    std::vector<uint8_t> &        raw;
    const bool                    here = ggml_backend_buffer_is_host(tensor->buffer);

    size_t n_embd() const { return (size_t) tensor->ne[0]; }
    size_t size() const { return cells.size(); }

    uint8_t * row(size_t i) const {
        return here ? (uint8_t *) tensor->data + cells[i] * tensor->nb[1] : raw.data() + i * tensor->nb[1];
    }

    // before the first row is read
    void fetch() {
        if (here) {
            return;
        }
        raw.resize(size() * tensor->nb[1]);
        for_runs(cells, [&](size_t i, size_t n) {
            ggml_backend_tensor_get(tensor, row(i), cells[i] * tensor->nb[1], n * tensor->nb[1]);
        });
    }

    // before the first row is written
    void open() {
        if (!here) {
            raw.resize(size() * tensor->nb[1]);
        }
    }

    // after the last one
    void flush() {
        if (here) {
            return;
        }
        for_runs(cells, [&](size_t i, size_t n) {
            ggml_backend_tensor_set(tensor, row(i), cells[i] * tensor->nb[1], n * tensor->nb[1]);
        });
    }
};

// whether rows of this type and distance are rotated on their way
static bool rotates(const llama_fed_rope * rope, const wire_type & type, int32_t shift) {
    return rope && rope->kind == llama_fed_rope::ROPE && (type.centred || shift != 0);
}

// f32 rows [i, i+n) to tile, those of a centred type at position 0
static int32_t load_tile(llama_fed_state & state, const llama_fed_rope * rope, const cache_rows & rows,
                         const llama_pos * pos, const wire_type & type, size_t i, size_t n) {
    const llama_fed_codec & codec = llama_fed_codec_best();
    for (size_t j = 0; j < n; ++j) {
        codec.f16.decode(rows.row(i + j), state.tile.data() + j * rows.n_embd(), rows.n_embd());
    }
    if (!rotates(rope, type, 0)) {
        return LLAMA_FED_OK;
    }
    return llama_fed_rotate(state, *rope, state.tile.data(), n, [pos, i](size_t j) { return -pos[i + j]; });
}

// the mean of all rows to state.mean, and as f16 to out. It is summed in the order of the rows, and what is subtracted is
// the rounded one, so that the receiver adds exactly what the sender took away.
static int32_t find_mean(llama_fed_state & state, const llama_fed_rope * rope, const cache_rows & rows,
                         const llama_pos * pos, const wire_type & type, uint8_t * out) {
    const llama_fed_codec & codec  = llama_fed_codec_best();
    const size_t            n_embd = rows.n_embd();
    state.sums.assign(n_embd, 0.0);
    const int32_t res = for_tiles(rows.size(), n_embd, [&](size_t i, size_t n) {
        const int32_t loaded = load_tile(state, rope, rows, pos, type, i, n);
        for (size_t j = 0; j < n; ++j) {
            codec.sum(state.sums.data(), state.tile.data() + j * n_embd, n_embd);
        }
        return loaded;
    });
    state.mean.resize(n_embd);
    for (size_t j = 0; j < n_embd; ++j) {
        const ggml_fp16_t half = ggml_fp32_to_fp16((float) (state.sums[j] / (double) rows.size()));
        memcpy(out + j * sizeof(half), &half, sizeof(half));
        state.mean[j] = ggml_fp16_to_fp32(half);
    }
    return res;
}

static int32_t encode_rows(llama_fed_state & state, const llama_fed_rope * rope, cache_rows rows, const llama_pos * pos,
                           const wire_type & type, uint8_t * out) {
    const llama_fed_codec & codec  = llama_fed_codec_best();
    const size_t            n_embd = rows.n_embd();
    rows.fetch();
    if (type.plain) {
        const size_t row = type.row_size(n_embd);
        for_runs(rows.cells, [&](size_t i, size_t n) { memcpy(out + i * row, rows.row(i), n * row); });
        return LLAMA_FED_OK;
    }
    state.tile.resize(std::max(FED_TILE, n_embd));
    if (type.centred) {
        const int32_t res = find_mean(state, rope, rows, pos, type, out);
        if (res != LLAMA_FED_OK) {
            return res;
        }
        out += type.mean_size(n_embd);
    }
    return for_tiles(rows.size(), n_embd, [&](size_t i, size_t n) {
        float *       tile = state.tile.data();
        const int32_t res  = load_tile(state, rope, rows, pos, type, i, n);
        for (size_t j = 0; type.centred && j < n; ++j) {
            codec.subtract(tile + j * n_embd, state.mean.data(), n_embd);
        }
        if (type.hadamard) {
            codec.hadamard(tile, n * n_embd, hadamard_group(n_embd));
        }
        type.format->encode(tile, out + i * type.row_size(n_embd), n * n_embd);
        return res;
    });
}

// Rows on their way from the wire into the cache.
struct arriving {
    const llama_fed_rope * rope; // nullptr for V
    cache_rows             rows;
    const llama_pos *      pos;
    int32_t                shift; // of rows that are not centred
    wire_type              type;
    const uint8_t *        wire;
};

// At least the greatest magnitude that an element will have at any step, as far as the wire tells without being decoded.
static float bound(const arriving & a) {
    const size_t n_embd = a.rows.n_embd();
    const size_t mean   = a.type.mean_size(n_embd);
    float        most   = a.type.format->bound(a.wire + mean, a.rows.size() * n_embd);
    if (a.type.hadamard) {
        most *= sqrtf((float) hadamard_group(n_embd));
    }
    if (a.type.centred) {
        most += llama_fed_codec_best().f16.bound(a.wire, n_embd);
    }
    if (rotates(a.rope, a.type, a.shift)) {
        return most * 1.5f; // both elements of a pair, and some room for rounding
    }
    return a.type.plain ? most : most * 1.01f;
}

// Decodes all rows and places them, if place is set, and otherwise refuses what an f16 cell cannot hold: one such value
// would spoil every token that attends to it, masked or not.
static int32_t decode_rows(llama_fed_state & state, arriving & a, bool place) {
    const llama_fed_codec & codec  = llama_fed_codec_best();
    const size_t            n_embd = a.rows.n_embd();
    const size_t            row    = a.type.row_size(n_embd);
    const uint8_t *         wire   = a.wire + a.type.mean_size(n_embd);
    if (place) {
        a.rows.open();
    }
    if (a.type.plain && !rotates(a.rope, a.type, a.shift)) {
        for_runs(a.rows.cells, [&](size_t i, size_t n) {
            if (place) {
                memcpy(a.rows.row(i), wire + i * row, n * row);
            }
        });
    } else {
        state.tile.resize(std::max(FED_TILE, n_embd));
        state.mean.resize(n_embd);
        if (a.type.centred) {
            codec.f16.decode(a.wire, state.mean.data(), n_embd);
        }
        const int32_t res = for_tiles(a.rows.size(), n_embd, [&](size_t i, size_t n) -> int32_t {
            float * tile = state.tile.data();
            a.type.format->decode(wire + i * row, tile, n * n_embd);
            if (a.type.hadamard) {
                codec.hadamard(tile, n * n_embd, hadamard_group(n_embd));
            }
            for (size_t j = 0; a.type.centred && j < n; ++j) {
                codec.add(tile + j * n_embd, state.mean.data(), n_embd);
            }
            if (!place && !codec.finite(tile, n * n_embd)) {
                return LLAMA_FED_E_VALUE;
            }
            if (rotates(a.rope, a.type, a.shift)) {
                const int32_t turned = llama_fed_rotate(
                    state, *a.rope, tile, n, [&](size_t j) { return a.type.centred ? a.pos[i + j] : a.shift; });
                if (turned != LLAMA_FED_OK) {
                    return turned;
                }
                // a rotation may push a large value over the edge
                if (!place && !codec.finite(tile, n * n_embd)) {
                    return LLAMA_FED_E_VALUE;
                }
            }
            for (size_t j = 0; place && j < n; ++j) {
                codec.f16.encode(tile + j * n_embd, a.rows.row(i + j), n_embd);
            }
            return LLAMA_FED_OK;
        });
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    if (place) {
        a.rows.flush();
    }
    return LLAMA_FED_OK;
}

// Refuses rows before any is placed. Most can be accepted for their scales alone, without being decoded twice.
static int32_t check_values(llama_fed_state & state, arriving & a) {
    if (bound(a) < FED_F16_INF) {
        return LLAMA_FED_OK;
    }
    return a.type.plain && !rotates(a.rope, a.type, a.shift) ? LLAMA_FED_E_VALUE : decode_rows(state, a, false);
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
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, state.cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    res = encode_rows(state, &layer.rope, { layer.k, state.cells, state.raw }, pos, parse_type(type_k), (uint8_t *) k);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    return encode_rows(state, nullptr, { layer.v, state.cells, state.raw }, pos, parse_type(type_v), (uint8_t *) v);
}

static int32_t rows_set(llama_context * ctx, int32_t il, const llama_pos * pos, size_t n, int32_t shift, int32_t type_k,
                        const void * k, size_t k_size, int32_t type_v, const void * v, size_t v_size) {
    llama_fed_caches * kv  = llama_fed_cache(ctx);
    int32_t            res = check_rows(kv, il, n, type_k, k, k_size, type_v, v, v_size);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    if (shift == INT32_MIN) { // there is no such distance in the other direction
        return LLAMA_FED_E_ARG;
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
    res = llama_fed_caches::find_cells(*layer.cache, pos, n, state.cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    arriving both[2] = {
        { &layer.rope, { layer.k, state.cells, state.raw }, pos, shift, parse_type(type_k), (const uint8_t *) k },
        { nullptr, { layer.v, state.cells, state.raw }, pos, 0, parse_type(type_v), (const uint8_t *) v },
    };
    // both are checked before either is placed: a refused call leaves the cells as they were
    for (arriving & rows : both) {
        res = check_values(state, rows);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    for (arriving & rows : both) {
        res = decode_rows(state, rows, true);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
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
