#include "llama-kv-cache-fed.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-io.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <utility>

thread_local llama_fed_pending llama_fed_creating;

static constexpr llama_seq_id FED_SEQ = 0;

//
// llama_fed_caches
//

void llama_fed_caches::adopt(const llama_model & model, std::vector<llama_kv_cache *> local,
                             std::vector<llama_kv_cache *> sync) {
    state.reset(llama_fed_creating.state);
    llama_fed_creating.state = nullptr;

    parts_local               = std::move(local);
    parts_sync                = std::move(sync);
    state->caches             = this;
    state->absolute_positions = model.pos_embd != nullptr;
    state->layers.resize(llama_fed_creating.params->n_layers);

    // the storage tensors: K is public, V is reached through a view of it
    for (const auto * parts : { &parts_local, &parts_sync }) {
        for (llama_kv_cache * cache : *parts) {
            for (uint32_t il : cache->get_layer_ids()) {
                const ggml_init_params meta = { 4 * ggml_tensor_overhead(), nullptr, true };
                ggml_context_ptr       ctx{ ggml_init(meta) };

                llama_kv_cache::slot_info sinfo;
                sinfo.s0   = 0;
                sinfo.s1   = 0;
                sinfo.strm = { 0 };
                sinfo.idxs = { { 0 } };

                llama_fed_layer & layer = state->layers.at(il);
                layer.k                 = cache->get_k_storage(il);
                layer.v                 = cache->get_v(ctx.get(), il, 1, sinfo)->view_src;
                layer.cache             = cache;
                layer.sync              = parts == &parts_sync;
                layer.part              = std::find(parts->begin(), parts->end(), cache) - parts->begin();
            }
        }
    }
}

static bool strictly_increasing(const llama_pos * pos, size_t n) {
    return pos && n > 0 && pos[0] >= 0 && std::adjacent_find(pos, pos + n, std::greater_equal<>()) == pos + n;
}

// The first free cells for micro-batches of so many tokens. llama.cpp's own search also takes cells whose tokens are outside
// the window of all to come, and forgets all positions before them; here rows of earlier positions arrive late, and turns
// are taken back, so that what was outside may be inside again.
static bool find_free(const llama_kv_cache & cache, const std::vector<size_t> & counts,
                      llama_kv_cache::slot_info_vec_t & out) {
    const llama_kv_cells & cells = cache.get_cells(FED_SEQ);

    uint32_t next = 0;
    for (size_t n : counts) {
        llama_kv_cache::slot_info slot;
        slot.s0   = 0;
        slot.s1   = 0;
        slot.strm = { 0 };
        slot.idxs.resize(1);
        for (; slot.idxs[0].size() < n && next < cells.size(); ++next) {
            if (cells.is_empty(next)) {
                slot.idxs[0].push_back(next);
            }
        }
        if (slot.idxs[0].size() < n) {
            return false;
        }
        out.push_back(std::move(slot));
    }
    return true;
}

int32_t llama_fed_caches::reserve(const llama_pos * pos, size_t n) {
    if (!strictly_increasing(pos, n) || pos[n - 1] == INT32_MAX) { // a position has to be left for what follows
        return LLAMA_FED_E_ARG;
    }
    for (const llama_kv_cache * cache : parts_sync) {
        const llama_kv_cells & cells = cache->get_cells(FED_SEQ);
        if (n > cells.size() - cells.get_used()) {
            return LLAMA_FED_E_FULL;
        }
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (!cells.is_empty(i) && std::binary_search(pos, pos + n, cells.pos_get(i))) {
                return LLAMA_FED_E_POSITION;
            }
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
    llama_kv_cache::slot_info_vec_t slots;
    for (const llama_kv_cache * cache : parts_sync) {
        if (!find_free(*cache, { n }, slots)) {
            return LLAMA_FED_E_FULL;
        }
    }
    for (size_t i = 0; i < slots.size(); ++i) {
        parts_sync[i]->apply_ubatch(slots[i], ubatch);
    }
    erase(pos, n);
    for (llama_fed_layer & layer : state->layers) {
        if (layer.sync) {
            const size_t before = layer.absent.size();
            layer.absent.insert(layer.absent.end(), pos, pos + n);
            std::inplace_merge(layer.absent.begin(), layer.absent.begin() + before, layer.absent.end());
        }
    }
    return LLAMA_FED_OK;
}

int32_t llama_fed_caches::release(const llama_pos * pos, size_t n) {
    std::vector<uint32_t> cells;
    for (const llama_kv_cache * cache : parts_sync) {
        const int32_t res = find_cells(*cache, pos, n, cells);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    erase(pos, n);
    forget(pos, n);
    return LLAMA_FED_OK;
}

int32_t llama_fed_caches::set_next_pos(llama_pos pos) {
    if (pos <= pos_max()) {
        return LLAMA_FED_E_POSITION;
    }
    pos_floor = pos - 1;
    return LLAMA_FED_OK;
}

int32_t llama_fed_caches::find_cells(const llama_kv_cache & cache, const llama_pos * pos, size_t n,
                                     std::vector<uint32_t> & out) {
    if (!strictly_increasing(pos, n)) {
        return LLAMA_FED_E_ARG;
    }
    const llama_kv_cells & cells   = cache.get_cells(FED_SEQ);
    const llama_pos        first   = pos[0];
    const llama_pos        last    = pos[n - 1];
    const bool             no_gaps = (size_t) (last - first) == n - 1;
    out.assign(n, UINT32_MAX);
    size_t found = 0;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.is_empty(i)) {
            continue;
        }
        const llama_pos p = cells.pos_get(i);
        if (p < first || p > last) {
            continue;
        }
        const size_t at = no_gaps ? (size_t) (p - first) : (size_t) (std::lower_bound(pos, pos + n, p) - pos);
        if (pos[at] == p) {
            found += out[at] == UINT32_MAX;
            out[at] = i;
        }
    }
    return found == n ? LLAMA_FED_OK : LLAMA_FED_E_POSITION;
}

void llama_fed_caches::erase(const llama_pos * pos, size_t n) {
    std::vector<uint32_t> cells;
    std::vector<uint8_t>  zero;
    for (const llama_kv_cache * cache : parts_sync) {
        find_cells(*cache, pos, n, cells);
        for (const llama_fed_layer & layer : state->layers) {
            if (layer.cache != cache) {
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
}

void llama_fed_caches::forget(const llama_pos * pos, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t j = i + 1;
        while (j < n && pos[j] == pos[j - 1] + 1) {
            ++j;
        }
        for (llama_kv_cache * cache : parts_sync) {
            cache->seq_rm(FED_SEQ, pos[i], pos[j - 1] + 1);
        }
        absent_remove(pos[i], pos[j - 1] + 1);
        i = j;
    }
}

//
// masks
//

// hides cells in every row of a mask, f16 [n_tokens][n_kv]
static void hide_cells(std::vector<uint8_t> & mask, size_t n_kv, const std::vector<uint32_t> & cells) {
    const ggml_fp16_t hidden = ggml_fp32_to_fp16(-INFINITY);
    ggml_fp16_t *     row    = (ggml_fp16_t *) mask.data();
    for (ggml_fp16_t * end = row + mask.size() / sizeof(*row); row != end; row += n_kv) {
        for (uint32_t cell : cells) {
            if (cell < n_kv) {
                row[cell] = hidden;
            }
        }
    }
}

// the copy from which a mask is edited
static void keep_full(llama_fed_mask_state & mask) {
    if (mask.full.empty()) {
        GGML_ASSERT(ggml_is_contiguous(mask.tensor) && mask.tensor->type == GGML_TYPE_F16);
        mask.full.resize(ggml_nbytes(mask.tensor));
        ggml_backend_tensor_get(mask.tensor, mask.full.data(), 0, mask.full.size());
    }
}

// Changes a mask in mid-forward. Where layers are on other devices, llama.cpp has given each a copy of the mask before
// it began with them; those are set when they are named, see tell_mask.
static void set_mask(llama_fed_mask_state & mask, std::vector<uint8_t> data) {
    ggml_backend_tensor_set(mask.tensor, data.data(), 0, data.size());
    mask.data = std::move(data);
    mask.told.clear();
}

int32_t llama_fed_caches::mask(const llama_pos * pos, size_t n) {
    if (!state->in_hook || !state->sync_masks[0].tensor) {
        return LLAMA_FED_E_STATE;
    }
    std::vector<std::vector<uint32_t>> cells(parts_sync.size());
    for (size_t i = 0; i < parts_sync.size(); ++i) {
        const int32_t res = find_cells(*parts_sync[i], pos, n, cells[i]);
        if (res != LLAMA_FED_OK) {
            return res;
        }
    }
    for (size_t i = 0; i < parts_sync.size(); ++i) {
        llama_fed_mask_state & mask = state->sync_masks[i];
        if (!mask.tensor || !mask.tensor->buffer) { // no layer of this kind attends
            continue;
        }
        const size_t n_kv = (size_t) mask.tensor->ne[0];
        keep_full(mask);
        hide_cells(mask.full, n_kv, cells[i]);
        std::vector<uint8_t> data = mask.full;
        hide_cells(data, n_kv, mask.hidden);
        set_mask(mask, std::move(data));
    }
    forget(pos, n);
    return LLAMA_FED_OK;
}

int32_t llama_fed_caches::hide_local(int32_t il, const llama_pos * pos, size_t n) {
    if (il < 0 || (size_t) il >= state->layers.size() || !state->layers[il].k || state->layers[il].sync) {
        return LLAMA_FED_E_LAYER;
    }
    llama_fed_layer & layer = state->layers[il];
    if (!strictly_increasing(pos, n)) {
        return LLAMA_FED_E_ARG;
    }
    std::vector<llama_pos> all;
    std::set_union(layer.absent.begin(), layer.absent.end(), pos, pos + n, std::back_inserter(all));
    if (all.size() > layer.cache->get_size()) {
        return LLAMA_FED_E_FULL;
    }
    layer.absent = std::move(all);
    return LLAMA_FED_OK;
}

std::vector<uint32_t> llama_fed_caches::absent_cells(const llama_fed_layer & layer) const {
    std::vector<uint32_t> cells;
    if (!layer.absent.empty()) {
        find_cells(*layer.cache, layer.absent.data(), layer.absent.size(), cells);
    }
    return cells;
}

bool llama_fed_caches::mask_differs(int32_t il) const {
    const llama_fed_layer & layer = state->layers[il];
    return !layer.absent.empty() || !state->mask_of(layer).hidden.empty();
}

void llama_fed_caches::apply_mask(int32_t il) {
    const llama_fed_layer & layer = state->layers[il];
    llama_fed_mask_state &  mask  = state->mask_of(layer);
    if (!mask.tensor || !mask.tensor->buffer) {
        return;
    }
    std::vector<uint32_t> cells = absent_cells(layer);
    if (cells == mask.hidden) {
        return;
    }
    keep_full(mask);
    const size_t         n_kv = (size_t) mask.tensor->ne[0];
    std::vector<uint8_t> data = mask.full;
    hide_cells(data, n_kv, cells);
    for (size_t t = 0; t < state->ubatch_pos.size(); ++t) {
        const auto   it = std::lower_bound(layer.absent.begin(), layer.absent.end(), state->ubatch_pos[t]);
        const size_t i  = it - layer.absent.begin();
        if (i < cells.size() && *it == state->ubatch_pos[t] && cells[i] < n_kv) { // a token attends to itself
            const size_t at = (t * n_kv + cells[i]) * sizeof(ggml_fp16_t);
            std::copy_n(mask.full.begin() + at, sizeof(ggml_fp16_t), data.begin() + at);
        }
    }
    set_mask(mask, std::move(data));
    mask.hidden = std::move(cells);
}

void llama_fed_caches::tell_mask(int32_t il, ggml_tensor * used) {
    if (il < 0 || !used) {
        return;
    }
    llama_fed_mask_state & mask = state->mask_of(state->layers[il]);
    if (mask.data.empty() || used == mask.tensor || used->type != mask.tensor->type ||
        ggml_nbytes(used) != mask.data.size() ||
        std::find(mask.told.begin(), mask.told.end(), used) != mask.told.end()) {
        return;
    }
    ggml_backend_tensor_set(used, mask.data.data(), 0, mask.data.size());
    mask.told.push_back(used);
}

void llama_fed_caches::written(int32_t il, const llama_pos * pos, size_t n) {
    std::vector<llama_pos> & absent = state->layers[il].absent;
    const auto               from   = std::lower_bound(absent.begin(), absent.end(), pos[0]);
    const auto               to     = std::upper_bound(from, absent.end(), pos[n - 1]);
    absent.erase(std::remove_if(from, to, [&](llama_pos p) { return std::binary_search(pos, pos + n, p); }), to);
}

void llama_fed_caches::absent_remove(llama_pos p0, llama_pos p1) {
    for (llama_fed_layer & layer : state->layers) {
        layer.absent.erase(std::remove_if(layer.absent.begin(), layer.absent.end(),
                                          [&](llama_pos p) { return p >= p0 && (p1 < 0 || p < p1); }),
                           layer.absent.end());
    }
}

void llama_fed_caches::absent_map(const std::function<llama_pos(llama_pos)> & to) {
    for (llama_fed_layer & layer : state->layers) {
        std::transform(layer.absent.begin(), layer.absent.end(), layer.absent.begin(), to);
    }
}

void llama_fed_caches::absent_write(llama_io_write_i & io) const {
    for (const llama_fed_layer & layer : state->layers) {
        const uint32_t n = (uint32_t) layer.absent.size();
        io.write(&n, sizeof(n));
        if (n > 0) {
            io.write(layer.absent.data(), n * sizeof(llama_pos));
        }
    }
}

void llama_fed_caches::absent_read(llama_io_read_i & io) {
    for (llama_fed_layer & layer : state->layers) {
        uint32_t n = 0;
        io.read(&n, sizeof(n));
        if (n > (layer.k ? layer.cache->get_size() : 0)) {
            throw std::runtime_error("more absent rows than cells");
        }
        layer.absent.resize(n);
        if (n == 0) {
            continue;
        }
        io.read(layer.absent.data(), n * sizeof(llama_pos));
        if (!strictly_increasing(layer.absent.data(), n)) {
            throw std::runtime_error("absent rows that are not in order");
        }
        std::vector<uint32_t> cells;
        if (!layer.sync || find_cells(*layer.cache, layer.absent.data(), n, cells) == LLAMA_FED_OK) {
            continue; // own tokens may still be to come
        }
        if (layer.part == 0) {
            throw std::runtime_error("absent rows without cells");
        }
        // llama.cpp saves no cells that are outside the window
        const auto gone = [&](llama_pos p) { return find_cells(*layer.cache, &p, 1, cells) != LLAMA_FED_OK; };
        layer.absent.erase(std::remove_if(layer.absent.begin(), layer.absent.end(), gone), layer.absent.end());
    }
}

void llama_fed_caches::get_memory(llama_fed_memory & out) const {
    const auto largest = [](const std::vector<llama_kv_cache *> & parts, uint32_t & n_cells, uint32_t & n_used) {
        for (const llama_kv_cache * cache : parts) {
            n_cells = std::max(n_cells, cache->get_size());
            n_used  = std::max(n_used, cache->get_cells(FED_SEQ).get_used());
        }
    };
    out = {};
    largest(parts_local, out.n_cells_local, out.n_used_local);
    largest(parts_sync, out.n_cells_sync, out.n_used_sync);
    for (const llama_fed_layer & layer : state->layers) {
        if (!layer.k) {
            continue;
        }
        (layer.sync ? out.n_layers_sync : out.n_layers_local) += 1;
        (layer.sync ? out.n_bytes_sync : out.n_bytes_local) += ggml_nbytes(layer.k) + ggml_nbytes(layer.v);
    }
}

//
// The two kinds of memory: one cache, or a pair of caches with and without a sliding window
//

namespace {

using slot_infos = std::vector<llama_kv_cache::slot_info_vec_t>;

struct plain {
    using cache   = llama_kv_cache;
    using context = llama_kv_cache_context;

    static constexpr size_t n_parts = 1;

    static std::vector<llama_kv_cache *> parts(cache & c) { return { &c }; }
};

struct windowed {
    using cache   = llama_kv_cache_iswa;
    using context = llama_kv_cache_iswa_context;

    static constexpr size_t n_parts = 2;

    static std::vector<llama_kv_cache *> parts(cache & c) { return { c.get_base(), c.get_swa() }; }
};

template <typename Kind> class fed_context;

// A cache of local layers that owns another one of sync layers.
template <typename Kind> class fed_cache : public Kind::cache, public llama_fed_caches {
    using base = typename Kind::cache;

public:
    template <typename... Args>
    fed_cache(const llama_model & model, std::unique_ptr<base> sync_cache, Args &&... args)
        : base(std::forward<Args>(args)...),
          sync(std::move(sync_cache)) {
        adopt(model, Kind::parts(*this), Kind::parts(*sync));
    }

    base & get_sync() { return *sync; }

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool /*embd_all*/) override {
        balloc.split_reset();

        std::vector<llama_ubatch> ubatches;
        while (true) {
            llama_ubatch ubatch = balloc.split_simple(n_ubatch);
            if (ubatch.n_tokens == 0) {
                break;
            }
            ubatches.push_back(std::move(ubatch));
        }
        slot_infos local;
        slot_infos remote;
        if (balloc.get_n_used() < balloc.get_n_tokens() || !prepare_parts(*this, ubatches, local) ||
            !prepare_parts(*sync, ubatches, remote)) {
            return std::make_unique<fed_context<Kind>>(LLAMA_MEMORY_STATUS_FAILED_PREPARE);
        }
        return std::make_unique<fed_context<Kind>>(*this, std::move(local), std::move(remote), std::move(ubatches));
    }

    llama_memory_context_ptr init_full() override { return std::make_unique<fed_context<Kind>>(*this); }

    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override {
        return std::make_unique<fed_context<Kind>>(base::init_update(lctx, optimize),
                                                   sync->init_update(lctx, optimize));
    }

    bool get_can_shift() const override { return base::get_can_shift() && sync->get_can_shift(); }

    void clear(bool data) override {
        base::clear(data);
        sync->clear(data);
        absent_remove(0, -1);
        pos_floor = -1;
    }

    bool seq_rm(llama_seq_id seq_id, llama_pos p0, llama_pos p1) override {
        const bool ok_local = base::seq_rm(seq_id, p0, p1);
        const bool ok_sync  = sync->seq_rm(seq_id, p0, p1);
        absent_remove(p0, p1);
        if (p1 < 0 || p1 > pos_floor) {
            pos_floor = std::min(pos_floor, std::max(p0, 0) - 1);
        }
        return ok_local && ok_sync;
    }

    void seq_cp(llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override {
        base::seq_cp(seq_id_src, seq_id_dst, p0, p1);
        sync->seq_cp(seq_id_src, seq_id_dst, p0, p1);
    }

    void seq_keep(llama_seq_id seq_id) override {
        base::seq_keep(seq_id);
        sync->seq_keep(seq_id);
    }

    void seq_add(llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override {
        base::seq_add(seq_id, p0, p1, shift);
        sync->seq_add(seq_id, p0, p1, shift);
        absent_map([=](llama_pos p) { return p >= p0 && (p1 < 0 || p < p1) ? p + shift : p; });
        pos_floor = -1; // the next own token is what the cells say from now on
    }

    void seq_div(llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override {
        base::seq_div(seq_id, p0, p1, d);
        sync->seq_div(seq_id, p0, p1, d);
        absent_map([=](llama_pos p) { return p >= p0 && (p1 < 0 || p < p1) ? p / d : p; });
        pos_floor = -1;
    }

    llama_pos seq_pos_min(llama_seq_id seq_id) const override {
        const llama_pos local = base::seq_pos_min(seq_id);
        const llama_pos both  = sync->seq_pos_min(seq_id);
        return local < 0 ? both : both < 0 ? local : std::min(local, both);
    }

    llama_pos seq_pos_max(llama_seq_id seq_id) const override {
        return std::max({ base::seq_pos_max(seq_id), sync->seq_pos_max(seq_id), pos_floor });
    }

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override {
        std::map<ggml_backend_buffer_type_t, size_t> res = base::memory_breakdown();
        for (const auto & [buft, size] : sync->memory_breakdown()) {
            res[buft] += size;
        }
        return res;
    }

    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override {
        base::state_write(io, seq_id, flags);
        sync->state_write(io, seq_id, flags);
        io.write(&pos_floor, sizeof(pos_floor));
        absent_write(io);
    }

    void state_read(llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) override {
        try {
            base::state_read(io, seq_id, flags);
            sync->state_read(io, seq_id, flags);
            io.read(&pos_floor, sizeof(pos_floor));
            absent_read(io);
        } catch (...) {
            // half a state is none: no part may keep what another one refused
            clear(true);
            throw;
        }
    }

protected:
    llama_pos pos_max() const override { return seq_pos_max(FED_SEQ); }

private:
    static bool prepare_parts(base & cache, const std::vector<llama_ubatch> & ubatches, slot_infos & out) {
        std::vector<size_t> counts;
        for (const llama_ubatch & ubatch : ubatches) {
            counts.push_back(ubatch.n_tokens);
        }
        for (llama_kv_cache * part : Kind::parts(cache)) {
            out.emplace_back();
            if (!find_free(*part, counts, out.back())) {
                return false;
            }
        }
        return true;
    }

    std::unique_ptr<base> sync;
};

// A micro-batch in both caches.
template <typename Kind> class fed_context : public Kind::context {
    using base = typename Kind::context;

public:
    // error
    explicit fed_context(llama_memory_status status) : base(status) {}

    // full cache
    explicit fed_context(fed_cache<Kind> & cache)
        : base(&cache),
          state(&cache.get_state()),
          sync(std::make_unique<base>(&cache.get_sync())) {}

    // pending shifts of both caches
    fed_context(llama_memory_context_ptr local, llama_memory_context_ptr remote)
        : base(llama_memory_status_combine(local->get_status(), remote->get_status())),
          update_local(std::move(local)),
          update_sync(std::move(remote)) {}

    // batch
    fed_context(fed_cache<Kind> & cache, slot_infos local, slot_infos remote, std::vector<llama_ubatch> ubatches)
        : fed_context(cache, std::move(local), std::move(remote), std::move(ubatches),
                      std::make_index_sequence<Kind::n_parts>()) {}

    bool next() override {
        sync->next();
        return base::next();
    }

    bool apply() override {
        if (update_local) {
            bool ok = true;
            for (llama_memory_context_i * update : { update_local.get(), update_sync.get() }) {
                ok = (update->get_status() == LLAMA_MEMORY_STATUS_NO_UPDATE || update->apply()) && ok;
            }
            return ok;
        }
        const bool ok_sync  = sync->apply();
        const bool ok_local = base::apply();

        const llama_ubatch & ubatch = this->get_ubatch();
        state->ubatch_pos.assign(ubatch.pos, ubatch.pos + ubatch.n_tokens);
        return ok_local && ok_sync;
    }

    const base * get_sync() const override { return sync.get(); }

    bool is_sync(int32_t il) const override {
        return state && (size_t) il < state->layers.size() && state->layers[il].sync;
    }

    void set_masks(ggml_tensor * local, ggml_tensor * local_swa, ggml_tensor * sync_base,
                   ggml_tensor * sync_swa) const override {
        if (state) {
            state->local_masks[0] = { local, {}, {}, {}, {} };
            state->local_masks[1] = { local_swa, {}, {}, {}, {} };
            state->sync_masks[0]  = { sync_base, {}, {}, {}, {} };
            state->sync_masks[1]  = { sync_swa, {}, {}, {}, {} };
        }
    }

private:
    template <size_t... I>
    fed_context(fed_cache<Kind> & cache, slot_infos local, slot_infos remote, std::vector<llama_ubatch> ubatches,
                std::index_sequence<I...>)
        : base(&cache, std::move(local[I])..., ubatches),
          state(&cache.get_state()),
          sync(std::make_unique<base>(&cache.get_sync(), std::move(remote[I])..., ubatches)) {}

    llama_fed_state *        state = nullptr;
    std::unique_ptr<base>    sync;
    llama_memory_context_ptr update_local;
    llama_memory_context_ptr update_sync;
};

} // namespace

llama_memory_i * llama_kv_cache_fed_create(const llama_model & model, const llama_memory_params & params,
                                           const llama_cparams &                   cparams,
                                           const llama_memory_i::layer_filter_cb & filter,
                                           const llama_memory_i::layer_reuse_cb &  reuse) {
    const llama_fed_params * fed = llama_fed_creating.params;
    // some architectures bring a rule for sharing rows between layers also when none of the model's layers shares them
    const bool               shares = reuse && model.hparams.n_layer_kv_from_start < (int32_t) model.hparams.n_layer();
    if (!fed || shares) {
        return nullptr;
    }
    const auto layers = [&](bool sync) -> llama_memory_i::layer_filter_cb {
        return [&filter, fed, sync](int32_t il) {
            const bool is_sync = (size_t) il < fed->n_layers && fed->sync_layers[il];
            return is_sync == sync && (!filter || filter(il));
        };
    };
    const llama_hparams & hparams = model.hparams;

    if (hparams.swa_type == LLAMA_SWA_TYPE_NONE) {
        auto sync = std::make_unique<llama_kv_cache>(model, hparams, params.type_k, params.type_v, !cparams.flash_attn,
                                                     cparams.offload_kqv, cparams.kv_unified, fed->n_cells_sync,
                                                     cparams.n_seq_max, 1, hparams.n_swa, hparams.swa_type, nullptr,
                                                     layers(true), nullptr, nullptr);
        return new fed_cache<plain>(model, std::move(sync), model, hparams, params.type_k, params.type_v,
                                    !cparams.flash_attn, cparams.offload_kqv, cparams.kv_unified, fed->n_cells_local,
                                    cparams.n_seq_max, 1, hparams.n_swa, hparams.swa_type, nullptr, layers(false),
                                    nullptr, nullptr);
    }
    // the window's cache at full size: remote rows come in any order and must not push each other out
    auto sync = std::make_unique<llama_kv_cache_iswa>(model, params.type_k, params.type_v, !cparams.flash_attn,
                                                      cparams.offload_kqv, /* swa_full */ true, cparams.kv_unified,
                                                      fed->n_cells_sync, cparams.n_seq_max, cparams.n_ubatch, 1,
                                                      nullptr, layers(true), nullptr, nullptr);
    return new fed_cache<windowed>(model, std::move(sync), model, params.type_k, params.type_v, !cparams.flash_attn,
                                   cparams.offload_kqv, /* swa_full */ true, cparams.kv_unified, fed->n_cells_local,
                                   cparams.n_seq_max, cparams.n_ubatch, 1, nullptr, layers(false), nullptr, nullptr);
}
