// The memory of a federated context: a cache for local layers that owns a second one for sync layers. Either is a plain
// cache, or a pair of caches where some layers attend to a sliding window.
#pragma once

#include "llama-fed.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"

#include <functional>
#include <memory>
#include <new>
#include <unordered_map>
#include <vector>

struct ggml_backend;

// What ggml_rope_ext needs to rotate K rows of one layer, copied from the model's own graph.
struct llama_fed_rope {
    enum kind_t {
        UNSEEN,      // no graph was built yet
        NONE,        // the layer has no RoPE: its rows do not depend on positions, or all of the model's do
        ROPE,        // rotate by op_params below
        UNSHIFTABLE, // RoPE on a part of the row that cannot be told from outside
    };
    kind_t kind = UNSEEN;

    int32_t            n_dims      = 0;
    int32_t            mode        = 0;
    int32_t            n_ctx_orig  = 0;
    int32_t            n_offs      = 0;
    float              freq_base   = 0.0f;
    float              freq_scale  = 0.0f;
    float              ext_factor  = 0.0f;
    float              attn_factor = 0.0f; // chosen so that rotating does not scale
    float              beta_fast   = 0.0f;
    float              beta_slow   = 0.0f;
    int64_t            n_head      = 0; // K row = [n_head][head_dim]
    int64_t            head_dim    = 0;
    std::vector<float> factors; // frequency factors, empty if the model has none

    size_t turns = 0; // which of the state's tables rotates by this rule

    // pairs are the two halves of the rotated part, not neighbours
    bool halves() const { return mode == GGML_ROPE_TYPE_NEOX; }
    bool same_turns(const llama_fed_rope & other) const;
};

// positions that are computed together
static constexpr int32_t FED_TURNS = 64;

// What a rotation by a number of positions does to each pair of elements, under one rule: [n_dims] of (cos, sin), as ggml
// lays out pairs. It is computed when it is needed first, FED_TURNS positions at a time, and kept.
struct llama_fed_turns {
    llama_fed_rope                                   rule;
    std::unordered_map<uint32_t, std::vector<float>> pages;

    // the page of by positions, forward or back, and the place in it
    static uint32_t page(int32_t by) { return distance(by) / FED_TURNS; }
    static uint32_t place(int32_t by) { return distance(by) % FED_TURNS; }

private:
    static uint32_t distance(int32_t by) { return by < 0 ? 0u - (uint32_t) by : (uint32_t) by; }
};

// What the attention of one layer does, copied from the model's own graph.
struct llama_fed_heads {
    bool     seen                   = false;
    uint32_t n_head                 = 0;
    uint32_t n_head_kv              = 0;
    uint32_t dim_k                  = 0; // of a head
    uint32_t dim_v                  = 0;
    uint32_t n_window               = 0; // tokens that it reaches back, or 0
    float    scale                  = 0.0f;
    float    softcap                = 0.0f; // 0: none
    char     queries[GGML_MAX_NAME] = "";   // name of the node with the queries
};

// One layer's storage and the cache that it is in.
struct llama_fed_layer {
    ggml_tensor *    k     = nullptr; // [n_embd_k, n_cells]
    ggml_tensor *    v     = nullptr; // [n_embd_v, n_cells]
    llama_kv_cache * cache = nullptr;
    bool             sync  = false;
    size_t           part  = 0; // which of the sync caches, or of the local ones
    llama_fed_rope   rope;
    llama_fed_heads  heads;

    // Positions that the layer attends to none of, ascending; a token attends to itself even so. At a sync layer remote
    // cells whose rows of this layer were not written, at a local layer what llama_fed_hide_local says.
    std::vector<llama_pos> absent;
};

// The attention mask of one cache in the micro-batch being evaluated. It is the same tensor for all layers of that cache,
// so it is edited in between where layers differ in what is absent.
struct llama_fed_mask_state {
    ggml_tensor *         tensor = nullptr; // [n_cells, n_tokens] f16
    std::vector<uint8_t>  full;   // as llama.cpp filled it, less what was masked since; empty until it is needed
    std::vector<uint32_t> hidden; // cells that the tensor hides now and full does not
    std::vector<uint8_t>  data;   // what the tensor was last set to here; empty: it is as llama.cpp filled it
    std::vector<const ggml_tensor *> told; // devices' copies of the tensor that were set to the same
};

// Who watches what leaves the layers.
struct llama_fed_output {
    llama_fed_output_hook hook = nullptr;
    void *                data = nullptr;
    std::vector<float>    rows; // of one micro-batch, [n_tokens][n_embd]
};

// Who watches what tokens look for.
struct llama_fed_query {
    llama_fed_query_hook hook = nullptr;
    void *               data = nullptr;
    std::vector<uint8_t> raw; // the queries of one layer and micro-batch, as the graph has them
};

// Who attends to rows that are elsewhere.
struct llama_fed_home {
    llama_fed_home_ask   ask   = nullptr;
    llama_fed_home_merge merge = nullptr;
    void *               data  = nullptr;
    std::vector<uint8_t> layers;

    int32_t              next  = -1;      // the layer whose queries come next in the graph
    const ggml_tensor *  asked = nullptr; // the queries that ask was called with
    std::vector<uint8_t> raw;             // queries as the graph has them
    std::vector<float>   rows;            // queries, then outputs, [n_tokens][n_head][head dim]
    std::vector<float>   lse;             // [n_tokens][n_head]

    std::shared_ptr<class llama_fed_attention> attention;
};

// State shared by the cache, its batch contexts and the eval callback. Owned by the cache.
struct llama_fed_state {
    class llama_fed_caches *     caches = nullptr; // the owner
    std::vector<llama_fed_layer> layers;

    bool absolute_positions = false; // positions are added to the embeddings: no row can be moved

    llama_fed_hook       hook      = nullptr;
    void *               hook_data = nullptr;
    std::vector<uint8_t> hook_layers;

    llama_fed_output output;
    llama_fed_query  query;
    llama_fed_home   home;

    bool                   in_hook = false;
    std::vector<llama_pos> ubatch_pos;     // of the micro-batch being evaluated
    llama_fed_mask_state   local_masks[2]; // of the same, for each of the local caches
    llama_fed_mask_state   sync_masks[2];  // and of the sync caches

    llama_fed_mask_state & mask_of(const llama_fed_layer & layer) {
        return (layer.sync ? sync_masks : local_masks)[layer.part];
    }

    // Memory that calls use again, so that a block costs no allocation.
    std::vector<uint32_t> cells; // of the positions of a call
    std::vector<uint8_t>  raw;   // f16 rows of a cache that is not in this process's memory, [n][n_embd]
    std::vector<float>    tile;  // some f32 rows between f16 and wire type, small enough for the first cache of a core
    std::vector<float>    mean;  // [n_embd], of the channels of a block's rows
    std::vector<double>   sums;  // [n_embd], of the same
    std::vector<float>    rows;  // f32 rows that hooks are shown

    std::vector<llama_fed_turns>  turns; // of the rules that the layers have; most models have one
    std::shared_ptr<ggml_backend> cpu;   // computes them
};

// What the C API sees of a federated memory, whatever caches it is made of.
class llama_fed_caches {
public:
    virtual ~llama_fed_caches() = default;

    int32_t reserve(const llama_pos * pos, size_t n);
    int32_t release(const llama_pos * pos, size_t n);
    int32_t set_next_pos(llama_pos pos);
    int32_t mask(const llama_pos * pos, size_t n);
    int32_t hide_local(int32_t il, const llama_pos * pos, size_t n);

    // true if layer il must not attend to all that its mask shows, or the mask hides what the layer may attend to
    bool mask_differs(int32_t il) const;
    // makes the mask right for layer il, whose rows are stored
    void apply_mask(int32_t il);
    // used is what layer il's attention is about to read as its mask: a device's copy is set to what the mask is now
    void tell_mask(int32_t il, ggml_tensor * used);
    // rows of layer il at pos[0..n) were written
    void written(int32_t il, const llama_pos * pos, size_t n);

    // cells of pos[0..n) in one cache
    static int32_t find_cells(const llama_kv_cache & cache, const llama_pos * pos, size_t n,
                              std::vector<uint32_t> & cells);

    llama_fed_state & get_state() const { return *state; }
    void              get_memory(llama_fed_memory & out) const;

protected:
    // takes the state over from the context being created and finds the layers' storage
    void adopt(const llama_model & model, std::vector<llama_kv_cache *> local, std::vector<llama_kv_cache *> sync);

    // the highest position that others are promised; own tokens come after it
    llama_pos pos_floor = -1;

    virtual llama_pos pos_max() const = 0;

    // what is absent follows the cells' positions; p1 < 0: to the end
    void absent_remove(llama_pos p0, llama_pos p1);
    void absent_map(const std::function<llama_pos(llama_pos)> & to);
    void absent_write(llama_io_write_i & io) const;
    void absent_read(llama_io_read_i & io);

private:
    // zeroes rows pos[0..n) at every sync layer
    void erase(const llama_pos * pos, size_t n);
    // forgets positions in the sync caches, leaving the rows
    void forget(const llama_pos * pos, size_t n);

    std::vector<uint32_t> absent_cells(const llama_fed_layer & layer) const;

    std::unique_ptr<llama_fed_state> state;
    std::vector<llama_kv_cache *>    parts_local;
    std::vector<llama_kv_cache *>    parts_sync;
};

// Runs a body of the C API: no exception leaves it.
template <typename F> int32_t llama_fed_guard(F body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return LLAMA_FED_E_MEMORY;
    }
}

// The federated memory of a context, or nullptr.
llama_fed_caches * llama_fed_cache(const llama_context * ctx);

// What llama_fed_init hands to llama_kv_cache_fed_create, which llama.cpp calls in between.
struct llama_fed_pending {
    const llama_fed_params * params = nullptr;
    llama_fed_state *        state  = nullptr; // the eval callback's user data, taken over by the cache
};

extern thread_local llama_fed_pending llama_fed_creating;

// Called by llama_model::create_memory. Returns nullptr unless a federated context is being created on this thread and
// the model's layers have rows of their own.
llama_memory_i * llama_kv_cache_fed_create(const llama_model & model, const llama_memory_params & params,
                                           const llama_cparams &                   cparams,
                                           const llama_memory_i::layer_filter_cb & filter,
                                           const llama_memory_i::layer_reuse_cb &  reuse);

// ggml_backend_sched_eval_callback; user_data is a llama_fed_state.
bool llama_fed_eval(ggml_tensor * t, bool ask, void * user_data);

// The part of llama_fed_eval that shows layer outputs; called for nodes that store no rows.
bool llama_fed_eval_output(llama_fed_state & state, const ggml_tensor * t, bool ask);

// The part that shows queries; called for nodes that attend.
bool llama_fed_eval_query(llama_fed_state & state, const ggml_tensor * t, bool ask);

// The layer that a node attends at, or -1: the one whose cells are its keys.
int32_t llama_fed_attended_layer(const llama_fed_state & state, const ggml_tensor * t);

// The part that shares attention with other devices; called for nodes that attend, and for views of their queries.
void llama_fed_note_heads(llama_fed_state & state, const ggml_tensor * t);
bool llama_fed_eval_home_ask(llama_fed_state & state, const ggml_tensor * t, bool ask);
bool llama_fed_eval_home_merge(llama_fed_state & state, ggml_tensor * t, bool ask, bool & stop);

// Whether K rows of a layer can be rotated now.
int32_t llama_fed_check_rotation(const llama_fed_state & state, const llama_fed_layer & layer);

// Gives a layer's rope its table of rotations; called when the rope is found.
void llama_fed_find_turns(llama_fed_state & state, llama_fed_rope & rope);

// Rotates f32 rows [n][n_head][head_dim] of one layer's rope, the i-th by by(i) positions. Before the first one of a page
// of positions, the page is computed; that may fail.
int32_t llama_fed_rotate(llama_fed_state & state, const llama_fed_rope & rope, float * rows, size_t n,
                         const std::function<int32_t(size_t)> & by);
