// Rotates K rows from one position to another. What a rotation does to each pair of elements is taken from ggml's own RoPE,
// applied to the pairs (1, 0), once for every position and kind of RoPE of a context: the rule is llama.cpp's, whatever it
// is made of, and rotating a row is a multiplication.

#include "llama-fed-codec.h"
#include "llama-fed.h"
#include "llama-kv-cache-fed.h"

#include "ggml-alloc.h"
#include "ggml-cpp.h"

#include <tuple>

static ggml_backend_t cpu_backend(llama_fed_state & state) {
    if (!state.cpu) {
        ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
        if (!backend) {
            return nullptr;
        }
        state.cpu.reset(backend, ggml_backend_free);

        // the work is small: more threads would cost more than they bring
        ggml_backend_reg_t reg           = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend));
        auto               set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
            reg, "ggml_backend_set_n_threads");
        if (set_n_threads) {
            set_n_threads(backend, 1);
        }
    }
    return state.cpu.get();
}

// the (cos, sin) of one page of positions, [FED_TURNS][n_dims]
static int32_t make_turns(llama_fed_state & state, const llama_fed_rope & rope, uint32_t page,
                          std::vector<float> & out) {
    ggml_backend_t backend = cpu_backend(state);
    if (!backend) {
        return LLAMA_FED_E_MEMORY;
    }
    const ggml_init_params meta = { 8 * ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false), nullptr, true };
    ggml_context_ptr       ctx{ ggml_init(meta) };

    ggml_tensor * pairs     = ggml_new_tensor_3d(ctx.get(), GGML_TYPE_F32, rope.head_dim, 1, FED_TURNS);
    ggml_tensor * positions = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, FED_TURNS);
    ggml_tensor * factors   = nullptr;
    if (!rope.factors.empty()) {
        factors = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_F32, (int64_t) rope.factors.size());
    }
    ggml_tensor * turned = ggml_rope_ext_inplace(ctx.get(), pairs, positions, factors, rope.n_dims, rope.mode,
                                                 rope.n_ctx_orig, rope.freq_base, rope.freq_scale, rope.ext_factor,
                                                 rope.attn_factor, rope.beta_fast, rope.beta_slow);
    ggml_rope_set_offset(turned, rope.n_offs);
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), 8, false);
    ggml_build_forward_expand(graph, turned);

    ggml_backend_buffer_ptr buffer{ ggml_backend_alloc_ctx_tensors(ctx.get(), backend) };
    if (!buffer) {
        return LLAMA_FED_E_MEMORY;
    }
    std::vector<int32_t> pos(FED_TURNS);
    std::vector<float>   rows((size_t) rope.head_dim * FED_TURNS, 0.0f);
    for (int32_t i = 0; i < FED_TURNS; ++i) {
        pos[i]      = (int32_t) page * FED_TURNS + i;
        float * row = rows.data() + i * rope.head_dim + rope.n_offs;
        for (int32_t j = 0; j < rope.n_dims / 2; ++j) {
            row[rope.halves() ? j : 2 * j] = 1.0f;
        }
    }
    ggml_backend_tensor_set(positions, pos.data(), 0, ggml_nbytes(positions));
    ggml_backend_tensor_set(pairs, rows.data(), 0, ggml_nbytes(pairs));
    if (factors) {
        ggml_backend_tensor_set(factors, rope.factors.data(), 0, ggml_nbytes(factors));
    }
    if (ggml_backend_graph_compute(backend, graph) != GGML_STATUS_SUCCESS) {
        return LLAMA_FED_E_MEMORY;
    }
    out.resize((size_t) rope.n_dims * FED_TURNS);
    for (int32_t i = 0; i < FED_TURNS; ++i) {
        ggml_backend_tensor_get(turned, out.data() + i * rope.n_dims, i * turned->nb[2] + rope.n_offs * sizeof(float),
                                rope.n_dims * sizeof(float));
    }
    return LLAMA_FED_OK;
}

bool llama_fed_rope::same_turns(const llama_fed_rope & other) const {
    const auto rule = [](const llama_fed_rope & r) {
        return std::tie(r.n_dims, r.mode, r.n_ctx_orig, r.freq_base, r.freq_scale, r.ext_factor, r.attn_factor,
                        r.beta_fast, r.beta_slow, r.factors);
    };
    return rule(*this) == rule(other);
}

void llama_fed_find_turns(llama_fed_state & state, llama_fed_rope & rope) {
    rope.turns = 0;
    while (rope.turns < state.turns.size() && !state.turns[rope.turns].rule.same_turns(rope)) {
        ++rope.turns;
    }
    if (rope.turns == state.turns.size()) {
        state.turns.emplace_back();
        state.turns.back().rule = rope;
    }
}

int32_t llama_fed_rotate(llama_fed_state & state, const llama_fed_rope & rope, float * rows, size_t n,
                         const std::function<int32_t(size_t)> & by) {
    const llama_fed_codec & codec = llama_fed_codec_best();
    llama_fed_turns &       turns = state.turns[rope.turns];
    const float *           page  = nullptr;
    uint32_t                at    = 0;
    for (size_t i = 0; i < n; ++i, rows += rope.n_head * rope.head_dim) {
        const int32_t  turn = by(i);
        const uint32_t want = llama_fed_turns::page(turn);
        if (!page || want != at) {
            std::vector<float> & floats = turns.pages[want];
            if (floats.empty()) {
                const int32_t res = make_turns(state, rope, want, floats);
                if (res != LLAMA_FED_OK) {
                    return res;
                }
            }
            page = floats.data();
            at   = want;
        }
        codec.rotate(rows + rope.n_offs, (size_t) rope.n_head, (size_t) rope.head_dim, (size_t) rope.n_dims,
                     rope.halves(), page + llama_fed_turns::place(turn) * rope.n_dims, turn < 0 ? -1.0f : 1.0f);
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_check_rotation(const llama_fed_state & state, const llama_fed_layer & layer) {
    if (layer.rope.kind == llama_fed_rope::UNSEEN) {
        return LLAMA_FED_E_STATE;
    }
    const bool fixed = layer.rope.kind == llama_fed_rope::UNSHIFTABLE || state.absolute_positions;
    return fixed ? LLAMA_FED_E_UNSUPPORTED : LLAMA_FED_OK;
}
