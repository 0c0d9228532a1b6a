// The memory of a federated context: a cache for local layers that owns a second one for sync layers.
#pragma once

#include "llama-fed.h"
#include "llama-kv-cache.h"

#include <memory>
#include <new>
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
};

// One layer's storage and the cache that it is in.
struct llama_fed_layer {
    ggml_tensor *  k    = nullptr; // [n_embd_k, n_cells]
    ggml_tensor *  v    = nullptr; // [n_embd_v, n_cells]
    bool           sync = false;
    llama_fed_rope rope;
};

// State shared by the cache, its batch contexts and the eval callback. Owned by the cache.
struct llama_fed_state {
    std::vector<llama_fed_layer> layers;

    bool absolute_positions = false; // positions are added to the embeddings: no row can be moved

    llama_fed_hook       hook      = nullptr;
    void *               hook_data = nullptr;
    std::vector<uint8_t> hook_layers;

    bool                   in_hook = false;
    std::vector<llama_pos> ubatch_pos;          // of the micro-batch being evaluated
    ggml_tensor *          sync_mask = nullptr; // [n_cells, n_tokens] f16, of the same

    std::vector<uint8_t> raw;  // f16 rows between cache and wire
    std::vector<float>   rows; // f32 rows between f16 and wire type

    std::shared_ptr<ggml_backend> cpu; // rotates K rows
};

class llama_kv_cache_fed : public llama_kv_cache {
public:
    // Returns nullptr unless a federated context is being created on this thread.
    static llama_memory_i * create(const llama_model & model, const llama_memory_params & params,
                                   const llama_cparams & cparams, const layer_filter_cb & filter);

    llama_kv_cache_fed(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams,
                       const layer_filter_cb & filter, const llama_fed_params & fed);

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override;

    void clear(bool data) override;

    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) override;
    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override;
    void state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) override;

    // federated API

    int32_t reserve(const llama_pos * pos, size_t n);
    int32_t release(const llama_pos * pos, size_t n);
    void    set_next_pos(llama_pos pos) { pos_floor = pos - 1; }

    // cells of pos[0..n) in the cache of the local (sync = false) or sync layers
    int32_t find_cells(bool sync, const llama_pos * pos, size_t n, std::vector<uint32_t> & cells) const;
    // zeroes rows at every sync layer
    void    erase(const std::vector<uint32_t> & cells);
    // forgets positions in the sync cache, leaving the rows
    void    forget(const llama_pos * pos, size_t n);

    llama_kv_cache *  get_sync() const { return sync.get(); }
    llama_fed_state & get_state() const { return *state; }
    void              get_memory(llama_fed_memory & out) const;

private:
    std::unique_ptr<llama_kv_cache>  sync;
    std::unique_ptr<llama_fed_state> state;

    // the highest position that others are promised; own tokens come after it
    llama_pos pos_floor = -1;
};

class llama_kv_cache_fed_context : public llama_kv_cache_context {
public:
    // error or nothing to do
    llama_kv_cache_fed_context(llama_memory_status status);

    // full cache
    llama_kv_cache_fed_context(llama_kv_cache_fed * kv);

    // pending shifts of both caches
    llama_kv_cache_fed_context(llama_memory_context_ptr update_local, llama_memory_context_ptr update_sync);

    // batch
    llama_kv_cache_fed_context(llama_kv_cache_fed * kv, slot_info_vec_t sinfos_local, slot_info_vec_t sinfos_sync,
                               std::vector<llama_ubatch> ubatches);

    bool next() override;
    bool apply() override;

    const llama_kv_cache_context * get_sync() const override { return sync.get(); }
    bool                           is_sync(int32_t il) const override;
    void                           set_sync_mask(ggml_tensor * kq_mask) const override;

private:
    llama_fed_state *                       state = nullptr;
    std::unique_ptr<llama_kv_cache_context> sync;
    llama_memory_context_ptr                update_local;
    llama_memory_context_ptr                update_sync;
};

// Runs a body of the C API: no exception leaves it.
template <typename F> int32_t llama_fed_guard(F body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return LLAMA_FED_E_MEMORY;
    }
}

// The federated cache of a context, or nullptr.
llama_kv_cache_fed * llama_fed_cache(const llama_context * ctx);

// What llama_fed_init hands to llama_kv_cache_fed::create, which llama.cpp calls in between.
struct llama_fed_pending {
    const llama_fed_params * params = nullptr;
    llama_fed_state *        state  = nullptr; // the eval callback's user data, taken over by the cache
};

extern thread_local llama_fed_pending llama_fed_creating;

// ggml_backend_sched_eval_callback; user_data is a llama_fed_state.
bool llama_fed_eval(ggml_tensor * t, bool ask, void * user_data);
