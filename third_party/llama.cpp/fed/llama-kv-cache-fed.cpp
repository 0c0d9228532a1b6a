#include "llama-kv-cache-fed.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>

thread_local llama_fed_pending llama_fed_creating;

static constexpr llama_seq_id FED_SEQ = 0;

//
// llama_kv_cache_fed
//

llama_memory_i * llama_kv_cache_fed::create(const llama_model & model, const llama_memory_params & params,
                                            const llama_cparams & cparams, const layer_filter_cb & filter) {
    if (!llama_fed_creating.params) {
        return nullptr;
    }
    return new llama_kv_cache_fed(model, params, cparams, filter, *llama_fed_creating.params);
}

// the filters run inside llama_kv_cache's constructor only
static llama_memory_i::layer_filter_cb layers_of(const llama_memory_i::layer_filter_cb & filter,
                                                 const llama_fed_params & fed, bool sync) {
    return [&filter, &fed, sync](int32_t il) {
        const bool is_sync = (size_t) il < fed.n_layers && fed.sync_layers[il];
        return is_sync == sync && (!filter || filter(il));
    };
}

llama_kv_cache_fed::llama_kv_cache_fed(const llama_model & model, const llama_memory_params & params,
                                       const llama_cparams & cparams, const layer_filter_cb & filter,
                                       const llama_fed_params & fed)
    : llama_kv_cache(model, model.hparams, params.type_k, params.type_v, !cparams.flash_attn, cparams.offload_kqv,
                     cparams.kv_unified, fed.n_cells_local, cparams.n_seq_max, 1, model.hparams.n_swa,
                     model.hparams.swa_type, nullptr, layers_of(filter, fed, false), nullptr, nullptr) {
    sync = std::make_unique<llama_kv_cache>(model, model.hparams, params.type_k, params.type_v, !cparams.flash_attn,
                                            cparams.offload_kqv, cparams.kv_unified, fed.n_cells_sync,
                                            cparams.n_seq_max, 1, model.hparams.n_swa, model.hparams.swa_type, nullptr,
                                            layers_of(filter, fed, true), nullptr, nullptr, "sync_");

    state.reset(llama_fed_creating.state);
    llama_fed_creating.state = nullptr;

    state->absolute_positions = model.pos_embd != nullptr;

    // the storage tensors: K is public, V is reached through a view of it
    state->layers.resize(fed.n_layers);
    for (llama_kv_cache * kv : { (llama_kv_cache *) this, sync.get() }) {
        for (uint32_t il : kv->get_layer_ids()) {
            const ggml_init_params meta = { 4 * ggml_tensor_overhead(), nullptr, true };
            ggml_context_ptr       ctx{ ggml_init(meta) };

            slot_info sinfo;
            sinfo.s0   = 0;
            sinfo.s1   = 0;
            sinfo.strm = { 0 };
            sinfo.idxs = { { 0 } };

            llama_fed_layer & layer = state->layers.at(il);
            layer.k                 = kv->get_k_storage(il);
            layer.v                 = kv->get_v(ctx.get(), il, 1, sinfo)->view_src;
            layer.sync              = kv == sync.get();
        }
    }
}

llama_memory_context_ptr llama_kv_cache_fed::init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch,
                                                        bool /*embd_all*/) {
    balloc.split_reset();

    std::vector<llama_ubatch> ubatches;
    while (true) {
        llama_ubatch ubatch = balloc.split_simple(n_ubatch);
        if (ubatch.n_tokens == 0) {
            break;
        }
        ubatches.push_back(std::move(ubatch));
    }
    if (balloc.get_n_used() < balloc.get_n_tokens()) {
        return std::make_unique<llama_kv_cache_fed_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    }

    slot_info_vec_t sinfos_local = prepare(ubatches);
    slot_info_vec_t sinfos_sync  = sync->prepare(ubatches);
    if (sinfos_local.empty() || sinfos_sync.empty()) {
        return std::make_unique<llama_kv_cache_fed_context>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
    }
    return std::make_unique<llama_kv_cache_fed_context>(this, std::move(sinfos_local), std::move(sinfos_sync),
                                                        std::move(ubatches));
}

llama_memory_context_ptr llama_kv_cache_fed::init_full() {
    return std::make_unique<llama_kv_cache_fed_context>(this);
}

llama_memory_context_ptr llama_kv_cache_fed::init_update(llama_context * lctx, bool optimize) {
    return std::make_unique<llama_kv_cache_fed_context>(llama_kv_cache::init_update(lctx, optimize),
                                                        sync->init_update(lctx, optimize));
}

bool llama_kv_cache_fed::get_can_shift() const {
    return llama_kv_cache::get_can_shift() && sync->get_can_shift();
}

void llama_kv_cache_fed::clear(bool data) {
    llama_kv_cache::clear(data);
    sync->clear(data);
    pos_floor = -1;
}

bool llama_kv_cache_fed::seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const bool ok_local = llama_kv_cache::seq_rm(seq_id, p0, p1);
    const bool ok_sync  = sync->seq_rm(seq_id, p0, p1);
    if (p1 < 0 || p1 > pos_floor) {
        pos_floor = std::min(pos_floor, std::max(p0, 0) - 1);
    }
    return ok_local && ok_sync;
}

void llama_kv_cache_fed::seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) {
    llama_kv_cache::seq_cp(seq_id_src, seq_id_dst, p0, p1);
    sync->seq_cp(seq_id_src, seq_id_dst, p0, p1);
}

void llama_kv_cache_fed::seq_keep(llama_seq_id seq_id) {
    llama_kv_cache::seq_keep(seq_id);
    sync->seq_keep(seq_id);
}

void llama_kv_cache_fed::seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) {
    llama_kv_cache::seq_add(seq_id, p0, p1, shift);
    sync->seq_add(seq_id, p0, p1, shift);
    // the next own token is what the cells say from now on
    pos_floor = -1;
}

void llama_kv_cache_fed::seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) {
    llama_kv_cache::seq_div(seq_id, p0, p1, d);
    sync->seq_div(seq_id, p0, p1, d);
    pos_floor = -1;
}

llama_pos llama_kv_cache_fed::seq_pos_min(llama_seq_id seq_id) const {
    const llama_pos local = llama_kv_cache::seq_pos_min(seq_id);
    const llama_pos both  = sync->seq_pos_min(seq_id);
    return local < 0 ? both : both < 0 ? local : std::min(local, both);
}

llama_pos llama_kv_cache_fed::seq_pos_max(llama_seq_id seq_id) const {
    return std::max({ llama_kv_cache::seq_pos_max(seq_id), sync->seq_pos_max(seq_id), pos_floor });
}

std::map<ggml_backend_buffer_type_t, size_t> llama_kv_cache_fed::memory_breakdown() const {
    std::map<ggml_backend_buffer_type_t, size_t> res = llama_kv_cache::memory_breakdown();
    for (const auto & [buft, size] : sync->memory_breakdown()) {
        res[buft] += size;
    }
    return res;
}

void llama_kv_cache_fed::state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const {
    llama_kv_cache::state_write(io, seq_id, flags);
    sync->state_write(io, seq_id, flags);
    io.write(&pos_floor, sizeof(pos_floor));
}

void llama_kv_cache_fed::state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) {
    llama_kv_cache::state_read(io, seq_id, flags);
    try {
        sync->state_read(io, seq_id, flags);
        io.read(&pos_floor, sizeof(pos_floor));
    } catch (...) {
        // half a state is none: the local cache must not keep what the sync cache refused
        llama_kv_cache::state_clear(seq_id);
        sync->state_clear(seq_id);
        throw;
    }
}

static bool strictly_increasing(const llama_pos * pos, size_t n) {
    return pos && n > 0 && pos[0] >= 0 && std::adjacent_find(pos, pos + n, std::greater_equal<>()) == pos + n;
}

int32_t llama_kv_cache_fed::reserve(const llama_pos * pos, size_t n) {
    if (!strictly_increasing(pos, n)) {
        return LLAMA_FED_E_ARG;
    }
    const llama_kv_cells & cells = sync->get_cells(FED_SEQ);
    if (n > cells.size() - cells.get_used()) {
        return LLAMA_FED_E_FULL;
    }
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!cells.is_empty(i) && std::binary_search(pos, pos + n, cells.pos_get(i))) {
            return LLAMA_FED_E_POSITION;
        }
    }

    llama_batch_allocr balloc(1);
    llama_ubatch       ubatch = balloc.ubatch_reserve((uint32_t) n, 1);
    llama_seq_id       seq    = FED_SEQ;
    for (size_t i = 0; i < n; ++i) {
        ubatch.pos[i]      = pos[i];
        ubatch.n_seq_id[i] = 1;
        ubatch.seq_id[i]   = &seq;
    }
    const slot_info sinfo = sync->find_slot(ubatch, false);
    if (sinfo.empty()) {
        return LLAMA_FED_E_FULL;
    }
    sync->apply_ubatch(sinfo, ubatch);
    erase(sinfo.idxs[0]);
    return LLAMA_FED_OK;
}

int32_t llama_kv_cache_fed::release(const llama_pos * pos, size_t n) {
    std::vector<uint32_t> cells;
    const int32_t         res = find_cells(true, pos, n, cells);
    if (res != LLAMA_FED_OK) {
        return res;
    }
    erase(cells);
    forget(pos, n);
    return LLAMA_FED_OK;
}

void llama_kv_cache_fed::erase(const std::vector<uint32_t> & cells) {
    std::vector<uint8_t> zero;
    for (const llama_fed_layer & layer : state->layers) {
        if (!layer.sync) {
            continue;
        }
        for (ggml_tensor * t : { layer.k, layer.v }) {
            zero.assign(t->nb[1], 0);
            for (uint32_t cell : cells) {
                ggml_backend_tensor_set(t, zero.data(), cell * t->nb[1], t->nb[1]);
            }
        }
    }
}

int32_t llama_kv_cache_fed::find_cells(bool in_sync, const llama_pos * pos, size_t n,
                                       std::vector<uint32_t> & out) const {
    if (!strictly_increasing(pos, n)) {
        return LLAMA_FED_E_ARG;
    }
    const llama_kv_cells & cells = in_sync ? sync->get_cells(FED_SEQ) : get_cells(FED_SEQ);
    out.assign(n, UINT32_MAX);
    size_t found = 0;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.is_empty(i)) {
            continue;
        }
        const llama_pos   p  = cells.pos_get(i);
        const llama_pos * it = std::lower_bound(pos, pos + n, p);
        if (it != pos + n && *it == p) {
            found += out[it - pos] == UINT32_MAX;
            out[it - pos] = i;
        }
    }
    return found == n ? LLAMA_FED_OK : LLAMA_FED_E_POSITION;
}

void llama_kv_cache_fed::forget(const llama_pos * pos, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t j = i + 1;
        while (j < n && pos[j] == pos[j - 1] + 1) {
            ++j;
        }
        sync->seq_rm(FED_SEQ, pos[i], pos[j - 1] + 1);
        i = j;
    }
}

void llama_kv_cache_fed::get_memory(llama_fed_memory & out) const {
    out               = {};
    out.n_cells_local = get_size();
    out.n_cells_sync  = sync->get_size();
    out.n_used_local  = get_cells(FED_SEQ).get_used();
    out.n_used_sync   = sync->get_cells(FED_SEQ).get_used();
    for (const llama_fed_layer & layer : state->layers) {
        if (!layer.k) {
            continue;
        }
        (layer.sync ? out.n_layers_sync : out.n_layers_local) += 1;
        (layer.sync ? out.n_bytes_sync : out.n_bytes_local) += ggml_nbytes(layer.k) + ggml_nbytes(layer.v);
    }
}

//
// llama_kv_cache_fed_context
//

llama_kv_cache_fed_context::llama_kv_cache_fed_context(llama_memory_status status) : llama_kv_cache_context(status) {}

llama_kv_cache_fed_context::llama_kv_cache_fed_context(llama_kv_cache_fed * kv)
    : llama_kv_cache_context(kv),
      state(&kv->get_state()),
      sync(std::make_unique<llama_kv_cache_context>(kv->get_sync())) {}

llama_kv_cache_fed_context::llama_kv_cache_fed_context(llama_memory_context_ptr local, llama_memory_context_ptr remote)
    : llama_kv_cache_context(llama_memory_status_combine(local->get_status(), remote->get_status())),
      update_local(std::move(local)),
      update_sync(std::move(remote)) {}

llama_kv_cache_fed_context::llama_kv_cache_fed_context(llama_kv_cache_fed * kv, slot_info_vec_t sinfos_local,
                                                       slot_info_vec_t sinfos_sync, std::vector<llama_ubatch> ubatches)
    : llama_kv_cache_context(kv, std::move(sinfos_local), ubatches),
      state(&kv->get_state()),
      sync(std::make_unique<llama_kv_cache_context>(kv->get_sync(), std::move(sinfos_sync), ubatches)) {}

bool llama_kv_cache_fed_context::next() {
    sync->next();
    return llama_kv_cache_context::next();
}

bool llama_kv_cache_fed_context::apply() {
    if (update_local) {
        bool ok = true;
        for (llama_memory_context_i * update : { update_local.get(), update_sync.get() }) {
            ok = (update->get_status() == LLAMA_MEMORY_STATUS_NO_UPDATE || update->apply()) && ok;
        }
        return ok;
    }
    const bool ok_sync  = sync->apply();
    const bool ok_local = llama_kv_cache_context::apply();

    const llama_ubatch & ubatch = get_ubatch();
    state->ubatch_pos.assign(ubatch.pos, ubatch.pos + ubatch.n_tokens);
    return ok_local && ok_sync;
}

bool llama_kv_cache_fed_context::is_sync(int32_t il) const {
    return state && (size_t) il < state->layers.size() && state->layers[il].sync;
}

void llama_kv_cache_fed_context::set_sync_mask(ggml_tensor * kq_mask) const {
    if (state) {
        state->sync_mask = kq_mask;
    }
}
