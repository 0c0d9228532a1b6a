// Random calls of llama-fed.h on tiny models, from a seed: layers, positions, types, lengths and moments at random, right
// ones and wrong ones. Which cells there are is kept in a ledger beside the library, and what each call has to answer
// follows from that alone; a call that is refused must leave every row as it was. Buffers are exactly as long as the
// library is told, so that under AddressSanitizer (test-asan.sh) a byte too far is a report.
//
//   test-calls [-d] [-n CALLS] [-s SEED] [-p PLANT]
//
// With -d all layers and caches are on a device whose memory is not this program's (far-device.h).
//
// PLANT is a mistake that a sanitizer has to find, to show that it looks: write or read one byte beyond a buffer inside the
// library, use what was freed, or overflow a signed number.

// the models are made by static functions of that program
#define TEST_ARCHS_AS_A_PART
#include "test-archs.cpp"

#include "llama-fed.h"

#include <climits>
#include <cstdarg>
#include <iterator>
#include <memory>
#include <optional>
#include <random>
#include <set>

namespace {

// RoPE of neighbours, of halves, partial, scaled, none; windows; absolute positions; several query heads for a KV head;
// rows that are no multiple of 64.
const char * const ARCHS = "^(llama|qwen2|qwen3|gemma3|phi2|starcoder|step35)$";

constexpr size_t    CALLS_A_CONTEXT = 400;
constexpr size_t    MOST_KEPT       = 4;       // sets of rows that are kept at a time
constexpr llama_pos FAR             = 1 << 20; // positions beyond are drawn as mistakes only

using positions = std::vector<llama_pos>;

//
// chance
//

class dice {
public:
    explicit dice(uint64_t seed) : gen(seed) {}

    uint64_t below(uint64_t n) { return gen() % n; }

    bool one_in(uint64_t n) { return below(n) == 0; }

    int32_t between(int64_t from, int64_t to) { return (int32_t) (from + (int64_t) below((uint64_t) (to - from) + 1)); }

    template <typename T> const T & pick(const std::vector<T> & from) { return from[below(from.size())]; }

    int32_t any_int32() {
        const int32_t edges[] = { INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX };
        return one_in(2) ? edges[below(std::size(edges))] : (int32_t) gen();
    }

private:
    std::mt19937_64 gen;
};

// n elements that end where the allocation ends, at any alignment if T has none
template <typename T> class exact {
public:
    explicit exact(size_t n, size_t offset)
        : n(n),
          offset(sizeof(T) == 1 ? offset : 0),
          all(new T[this->offset + n]()) {}

    explicit exact(const std::vector<T> & from) : exact(from.size(), 0) { std::copy(from.begin(), from.end(), data()); }

    T * data() const { return all.get() + offset; }

    size_t size() const { return n; }

private:
    size_t               n;
    size_t               offset;
    std::unique_ptr<T[]> all;
};

using bytes  = exact<uint8_t>;
using floats = exact<float>;

//
// what is expected
//

uint64_t    n_calls   = 0;
uint64_t    n_refused = 0;
uint64_t    seed_used = 0;
std::string model_name;

[[noreturn]] void broken(const char * format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "test-calls: seed %llu, %s, call %llu: ", (unsigned long long) seed_used, model_name.c_str(),
            (unsigned long long) n_calls);
    vfprintf(stderr, format, args);
    fputs("\n", stderr);
    va_end(args);
    exit(1);
}

// The mistakes of a call. It has to be refused for one of them, or to succeed if there is none.
using mistakes = std::set<int32_t>;

bool answered(const char * call, int32_t status, const mistakes & wrong, bool may_refuse_values = false) {
    ++n_calls;
    n_refused += status != LLAMA_FED_OK;
    const bool expected = wrong.empty() ? status == LLAMA_FED_OK || (may_refuse_values && status == LLAMA_FED_E_VALUE)
                                        : wrong.count(status) > 0;
    if (!expected) {
        std::string list;
        for (int32_t code : wrong) {
            list += std::string(list.empty() ? "" : ", or ") + llama_fed_strerror(code);
        }
        broken("%s: %s; expected: %s", call, llama_fed_strerror(status), list.empty() ? "success" : list.c_str());
    }
    return status == LLAMA_FED_OK;
}

bool increasing(const positions & pos) {
    return !pos.empty() && pos[0] >= 0 &&
           std::adjacent_find(pos.begin(), pos.end(), std::greater_equal<>()) == pos.end();
}

bool all_in(const positions & pos, const std::set<llama_pos> & cells) {
    return std::all_of(pos.begin(), pos.end(), [&](llama_pos p) { return cells.count(p) > 0; });
}

bool any_in(const positions & pos, const std::set<llama_pos> & cells) {
    return std::any_of(pos.begin(), pos.end(), [&](llama_pos p) { return cells.count(p) > 0; });
}

// Elements and bytes that share a scale, as llama-fed.h says.
std::optional<std::pair<size_t, size_t>> format_of(int32_t type) {
    const int32_t flags = LLAMA_FED_TYPE_CENTRED | LLAMA_FED_TYPE_HADAMARD;
    if (type & ~(LLAMA_FED_TYPE_FORMAT | flags)) {
        return {};
    }
    switch (type & LLAMA_FED_TYPE_FORMAT) {
        case LLAMA_FED_TYPE_F16:
            if (type & LLAMA_FED_TYPE_HADAMARD) {
                return {};
            }
            return { { 1, 2 } };
        case LLAMA_FED_TYPE_Q8_0: return { { 32, 34 } };
        case LLAMA_FED_TYPE_Q5_1: return { { 32, 24 } };
        case LLAMA_FED_TYPE_Q4_1: return { { 32, 20 } };
        case LLAMA_FED_TYPE_Q4_0: return { { 32, 18 } };
        case LLAMA_FED_TYPE_NF3:  return { { 32, 14 } };
        default:                  return {};
    }
}

// Bytes of n rows, 0 if there is no such thing.
size_t size_of(int32_t type, size_t n_embd, size_t n) {
    const auto format = format_of(type);
    if (!format || n_embd == 0 || n_embd % format->first != 0) {
        return 0;
    }
    const size_t mean = type & LLAMA_FED_TYPE_CENTRED && n > 0 ? 2 * n_embd : 0;
    return mean + n * (n_embd / format->first * format->second);
}

//
// a context and its ledger
//

struct layer_shape {
    uint32_t n_k, n_v, n_window, n_head, n_head_kv;
};

struct subject {
    std::string              name;
    llama_model_ptr          model;
    bool                     home = false; // its attention can be shared
    llama_pos                most = FAR;   // positions that it takes
    std::vector<layer_shape> layers;

    explicit subject(const variant & v) : name(v.name()), model(make_model(v)) {
        for (int32_t il = 0; il < llama_model_n_layer(model.get()); ++il) {
            layer_shape s = {};
            answered("row_shape", llama_fed_row_shape(model.get(), il, &s.n_k, &s.n_v, &s.n_window), {});
            answered("head_count", llama_fed_head_count(model.get(), il, &s.n_head, &s.n_head_kv), {});
            layers.push_back(s);
        }
        home = llama_fed_home_check(model.get(), nullptr, 0) == LLAMA_FED_OK;
        if (v.arch == LLM_ARCH_STARCODER) { // its embeddings of positions end there
            most = llama_model_n_ctx_train(model.get()) - 1;
        }
    }

    size_t n_layers() const { return layers.size(); }
};

// Rows that were kept, and what is known of them.
struct kept_rows {
    llama_fed_rows *     rows = nullptr;
    const subject *      of   = nullptr;
    std::vector<uint8_t> layers;
    positions            pos;
    bool                 turns = false; // they can be moved

    void free() {
        llama_fed_rows_free(rows);
        rows = nullptr;
    }
};

class session {
public:
    session(const session &)             = delete;
    session & operator=(const session &) = delete;

    session(const subject & of, dice & chance, std::vector<kept_rows> & kept) : of(of), chance(chance), kept(kept) {
        sync.resize(of.n_layers());
        for (uint8_t & s : sync) {
            s = !chance.one_in(3);
        }
        n_local  = (uint32_t) chance.between(1, 2) * 256;
        n_sync   = n_local + (uint32_t) chance.between(0, 1) * 256;
        n_ubatch = (uint32_t) chance.between(8, 32);
        absent.resize(of.n_layers());
        ctx.reset(create(sync.data(), sync.size(), n_local, n_sync, {}));
        if (!chance.one_in(8)) {
            decode((size_t) chance.between(1, 20), false);
        }
    }

    ~session() {
        if (chance.one_in(2)) { // rows are independent of the context that they were copied from
            ctx.reset();
            for (size_t i = 0; i < kept.size(); ++i) {
                attend();
            }
        }
    }

    void call() {
        switch (chance.below(24)) {
            case 0:
            case 1:
            case 2:  reserve(); break;
            case 3:  release(); break;
            case 4:  set_next_pos(); break;
            case 5:
            case 6:
            case 7:
            case 8:  get(); break;
            case 9:
            case 10:
            case 11:
            case 12:
            case 13: set(); break;
            case 14:
            case 15: decode((size_t) chance.between(1, 40), true); break;
            case 16: truncate(); break;
            case 17: hide_local(); break;
            case 18: keep(); break;
            case 19:
            case 20: attend(); break;
            case 21: hooks(); break;
            case 22: mask(); break;
            default: others(); break;
        }
        check_memory();
    }

    // A mistake for the sanitizers: it returns if they do not work, and false if this context is of no use for it.
    bool plant(const std::string & what) {
        if (!sync[0] || local.empty()) {
            return false;
        }
        const int32_t    il = 0;
        const positions  pos(local.begin(), local.end());
        const int32_t    type = LLAMA_FED_TYPE_Q8_0;
        const size_t     k    = size_of(type, of.layers[il].n_k, pos.size());
        const size_t     v    = size_of(type, of.layers[il].n_v, pos.size());
        const bool       out  = what == "write";
        const bytes      all_k(k, 0);
        const bytes      all_v(v - (out || what == "read"), 0);
        volatile int32_t most = INT32_MAX;
        if (out) {
            llama_fed_rows_get(ctx.get(), il, pos.data(), pos.size(), type, all_k.data(), k, type, all_v.data(), v);
        } else if (what == "read") {
            llama_fed_rows_set(ctx.get(), il, pos.data(), pos.size(), 0, type, all_k.data(), k, type, all_v.data(), v);
        } else if (what == "free") {
            ctx.reset(create(sync.data(), sync.size(), n_local, n_sync, {}));
            llama_context * gone = ctx.get();
            ctx.reset();
            llama_fed_set_next_pos(gone, 1);
        } else if (what == "overflow") {
            most = most + 1;
        } else {
            broken("there is no plant called %s", what.c_str());
        }
        return true;
    }

private:
    //
    // arguments
    //

    llama_pos last() const {
        llama_pos p = floor;
        for (const auto * cells : { &local, &in_sync }) {
            p = cells->empty() ? p : std::max(p, *cells->rbegin());
        }
        return p;
    }

    llama_pos after_last(int64_t by) const { return (llama_pos) std::min<int64_t>(last() + by, INT32_MAX); }

    const std::set<llama_pos> & cells_of(size_t il) const { return sync[il] ? in_sync : local; }

    // some of the positions that have cells, ascending; sometimes with a mistake
    positions existing(const std::set<llama_pos> & cells, bool may_be_wrong = true) {
        positions pos;
        if (!cells.empty()) {
            const bool   dense = chance.one_in(2);
            const size_t from  = chance.below(cells.size());
            const size_t n     = 1 + chance.below(std::min<size_t>(cells.size() - from, 48));
            auto         it    = cells.begin();
            std::advance(it, from);
            for (size_t i = 0; i < n; ++i, ++it) {
                if (dense || i == 0 || chance.one_in(2)) {
                    pos.push_back(*it);
                }
            }
        }
        return may_be_wrong ? spoil(std::move(pos)) : pos;
    }

    // some that have none
    positions vacant() {
        positions pos;
        llama_pos p = chance.between(0, std::min(after_last(60), FAR));
        for (size_t n = 1 + chance.below(chance.one_in(20) ? 600 : 40); pos.size() < n; p += 1 + chance.one_in(6)) {
            if (in_sync.count(p) == 0 && (local.count(p) == 0 || chance.one_in(50))) {
                pos.push_back(p);
            }
        }
        return spoil(std::move(pos));
    }

    // no position, one out of order, one that may be anywhere
    positions spoil(positions pos) {
        if (!chance.one_in(8)) {
            return pos;
        }
        switch (chance.below(4)) {
            case 0: pos.clear(); break;
            case 1:
                if (!pos.empty()) {
                    pos.push_back(pos.back());
                }
                break;
            case 2:
                if (!pos.empty()) {
                    pos[chance.below(pos.size())] = chance.any_int32();
                }
                break;
            default: pos.push_back(chance.between(0, after_last(3))); break;
        }
        return pos;
    }

    int32_t any_layer() { return chance.one_in(16) ? chance.any_int32() : (int32_t) chance.below(of.n_layers()); }

    bool is_layer(int32_t il) const { return il >= 0 && (size_t) il < of.n_layers(); }

    int32_t any_type() {
        if (chance.one_in(30)) {
            return chance.one_in(2) ? chance.any_int32() : (int32_t) chance.below(64);
        }
        const int32_t format = chance.between(LLAMA_FED_TYPE_F16, LLAMA_FED_TYPE_NF3);
        const int32_t flags  = format == LLAMA_FED_TYPE_F16 ? LLAMA_FED_TYPE_CENTRED
                                                            : LLAMA_FED_TYPE_CENTRED | LLAMA_FED_TYPE_HADAMARD;
        return format | ((int32_t) chance.below(64) & flags);
    }

    // the length of a buffer; wrong at times
    size_t any_size(size_t right) {
        if (!chance.one_in(24)) {
            return right;
        }
        const size_t wrong[] = { 0, right + 1, right > 0 ? right - 1 : 1, right / 2, 2 * right };
        return wrong[chance.below(std::size(wrong))];
    }

    // what is wrong with positions that have to have cells
    static void check_positions(mistakes & wrong, const positions & pos, const std::set<llama_pos> & cells) {
        if (!increasing(pos)) {
            wrong.insert(LLAMA_FED_E_ARG);
        } else if (!all_in(pos, cells)) {
            wrong.insert(LLAMA_FED_E_POSITION);
        }
    }

    // and with a buffer of rows
    static void check_buffer(mistakes & wrong, int32_t type, size_t n_embd, size_t n, const void * data, size_t size) {
        if (!data || n == 0) {
            wrong.insert(LLAMA_FED_E_ARG);
        }
        const size_t want = size_of(type, n_embd, n);
        if (want == 0 && n > 0) {
            wrong.insert(LLAMA_FED_E_TYPE);
        }
        if (size != want) {
            wrong.insert(LLAMA_FED_E_SIZE);
        }
    }

    // A layer's rule of rotation is seen when its graph is evaluated; before that the library says so.
    void check_rotation(mistakes & wrong) const {
        if (!evaluated) {
            wrong.insert({ LLAMA_FED_OK, LLAMA_FED_E_STATE, LLAMA_FED_E_UNSUPPORTED });
        } else if (llama_fed_can_shift(ctx.get()) != LLAMA_FED_OK) {
            wrong.insert({ LLAMA_FED_OK, LLAMA_FED_E_UNSUPPORTED }); // some layers' rows may be moved
        }
    }

    llama_context * null_at_times(mistakes & wrong) {
        if (chance.one_in(200)) {
            wrong = { LLAMA_FED_E_CONTEXT };
            return nullptr;
        }
        return ctx.get();
    }

    // Every row of every layer, and where it is.
    std::vector<uint8_t> snapshot() const {
        std::vector<uint8_t> all;
        for (size_t il = 0; il < of.n_layers(); ++il) {
            const std::set<llama_pos> & cells = cells_of(il);
            if (!cells.empty()) {
                append_rows(all, il, { cells.begin(), cells.end() });
            }
        }
        return all;
    }

    void append_rows(std::vector<uint8_t> & to, size_t il, const positions & pos) const {
        const size_t k = size_of(LLAMA_FED_TYPE_F16, of.layers[il].n_k, pos.size());
        const size_t v = size_of(LLAMA_FED_TYPE_F16, of.layers[il].n_v, pos.size());
        to.resize(to.size() + k + v);
        uint8_t * at = to.data() + to.size() - k - v;
        if (llama_fed_rows_get(ctx.get(), (int32_t) il, pos.data(), pos.size(), LLAMA_FED_TYPE_F16, at, k,
                               LLAMA_FED_TYPE_F16, at + k, v) != LLAMA_FED_OK) {
            broken("layer %zu does not give the rows that it has", il);
        }
    }

    // Calls what may change rows and holds it to what it may change: nothing if it is refused, and otherwise only rows of
    // the positions pos at layer il, or at all layers if il is negative. Not every time: it reads everything twice.
    template <typename F> bool keeping_others(int32_t il, const positions & pos, F change) {
        if (!chance.one_in(4)) {
            return change();
        }
        const auto rest = [&](bool without) {
            std::vector<uint8_t> all;
            for (size_t l = 0; l < of.n_layers(); ++l) {
                positions others;
                for (llama_pos p : cells_of(l)) {
                    const bool touched = (il < 0 || (size_t) il == l) &&
                                         std::find(pos.begin(), pos.end(), p) != pos.end();
                    if (!without || !touched) {
                        others.push_back(p);
                    }
                }
                if (!others.empty()) {
                    append_rows(all, l, others);
                }
            }
            return all;
        };
        const std::vector<uint8_t> everything = rest(false);
        const std::vector<uint8_t> others     = rest(true);
        const bool                 changed    = change();
        if (!changed && rest(false) != everything) {
            broken("a call that was refused changed rows");
        }
        if (changed && rest(true) != others) {
            broken("other rows changed than those that were named");
        }
        return changed;
    }

    //
    // calls
    //

    llama_context * create(const uint8_t * layers, size_t n_layers, uint32_t cells_local, uint32_t cells_sync,
                           const mistakes & wrong) {
        llama_context_params params   = llama_context_default_params();
        params.n_batch                = 256;
        params.n_ubatch               = n_ubatch;
        params.n_threads              = 1;
        params.n_threads_batch        = 1;
        params.no_perf                = true;
        const llama_fed_params fed    = { layers, n_layers, cells_local, cells_sync };
        int32_t                status = LLAMA_FED_OK;
        const bytes            reason(1 + chance.below(80), 0);
        llama_context *        made = llama_fed_init(of.model.get(), params, &fed, &status, (char *) reason.data(),
                                                     reason.size());
        answered("init", status, wrong);
        if ((status == LLAMA_FED_OK) != (made != nullptr)) {
            broken("init: a status that is not about what it returned");
        }
        return made;
    }

    void reserve() {
        const positions pos = vacant();
        mistakes        wrong;
        if (!increasing(pos)) {
            wrong.insert(LLAMA_FED_E_ARG);
        } else {
            if (pos.size() > n_sync - in_sync.size()) {
                wrong.insert(LLAMA_FED_E_FULL);
            }
            if (any_in(pos, in_sync)) {
                wrong.insert(LLAMA_FED_E_POSITION);
            }
            if (pos.back() == INT32_MAX) {
                wrong.insert(LLAMA_FED_E_ARG); // no token could follow
            }
        }
        llama_context *        c = null_at_times(wrong);
        const exact<llama_pos> p(pos);
        const bool             done = keeping_others(
            -1, {}, [&] { return answered("reserve", llama_fed_reserve(c, p.data(), p.size()), wrong); });
        if (!done) {
            return;
        }
        in_sync.insert(pos.begin(), pos.end());
        for (size_t il = 0; il < of.n_layers(); ++il) {
            if (sync[il]) {
                std::vector<uint8_t> rows;
                append_rows(rows, il, pos);
                if (std::any_of(rows.begin(), rows.end(), [](uint8_t b) { return b != 0; })) {
                    broken("a reserved cell holds something");
                }
            }
        }
    }

    void forget(const positions & pos) {
        for (llama_pos p : pos) {
            in_sync.erase(p);
            for (auto & hidden : absent) {
                hidden.erase(p);
            }
        }
    }

    void release() {
        const positions pos = existing(in_sync);
        mistakes        wrong;
        check_positions(wrong, pos, in_sync);
        llama_context *        c = null_at_times(wrong);
        const exact<llama_pos> p(pos);
        if (answered("release", llama_fed_release(c, p.data(), p.size()), wrong)) {
            forget(pos);
        }
    }

    void set_next_pos() {
        const llama_pos pos = chance.one_in(10) ? chance.any_int32() : after_last(chance.between(-3, 12));
        mistakes        wrong;
        if (pos < 0) {
            wrong.insert(LLAMA_FED_E_ARG);
        } else if (pos <= last()) {
            wrong.insert(LLAMA_FED_E_POSITION);
        }
        llama_context * c = null_at_times(wrong);
        if (answered("set_next_pos", llama_fed_set_next_pos(c, pos), wrong)) {
            floor = pos - 1;
        }
    }

    void get(int32_t layer = -1) {
        const int32_t     il     = layer >= 0 ? layer : any_layer();
        const positions   pos    = existing(is_layer(il) ? cells_of((size_t) il) : local);
        const int32_t     type_k = any_type();
        const int32_t     type_v = any_type();
        const layer_shape shape  = of.layers[is_layer(il) ? il : 0];
        const bytes       k(any_size(size_of(type_k, shape.n_k, pos.size())), chance.below(4));
        const bytes       v(any_size(size_of(type_v, shape.n_v, pos.size())), chance.below(4));
        void *            to_k = chance.one_in(100) ? nullptr : k.data();
        void *            to_v = chance.one_in(100) ? nullptr : v.data();
        mistakes          wrong;
        if (!is_layer(il)) {
            wrong.insert(LLAMA_FED_E_LAYER);
        } else {
            check_positions(wrong, pos, cells_of((size_t) il));
        }
        check_buffer(wrong, type_k, shape.n_k, pos.size(), to_k, k.size());
        check_buffer(wrong, type_v, shape.n_v, pos.size(), to_v, v.size());
        if (type_k & LLAMA_FED_TYPE_CENTRED) {
            check_rotation(wrong);
        }
        llama_context *        c = in_hook ? ctx.get() : null_at_times(wrong);
        const exact<llama_pos> p(pos);
        answered("rows_get",
                 llama_fed_rows_get(c, il, p.data(), p.size(), type_k, to_k, k.size(), type_v, to_v, v.size()), wrong);
    }

    // Arbitrary bytes, or such that every number in f16 is finite and small.
    bytes any_bytes(size_t size, bool & tame) {
        bytes         rows(size, chance.below(4));
        const bool    wild = chance.one_in(4);
        const uint8_t keep = wild ? 0xff : 0xb3; // without the upper bits of an exponent
        for (size_t i = 0; i < size; ++i) {
            rows.data()[i] = (uint8_t) chance.below(256) & keep;
        }
        tame = tame && !wild;
        return rows;
    }

    void set(int32_t layer = -1) {
        const int32_t     il     = layer >= 0 ? layer : any_layer();
        const positions   pos    = existing(is_layer(il) && sync[(size_t) il] ? in_sync : local);
        const int32_t     type_k = any_type();
        const int32_t     type_v = any_type();
        const layer_shape shape  = of.layers[is_layer(il) ? il : 0];
        const int32_t shift = chance.one_in(20) ? chance.any_int32() : chance.one_in(2) ? 0 : chance.between(-300, 300);
        bool          tame  = true;
        const bytes   k     = any_bytes(any_size(size_of(type_k, shape.n_k, pos.size())), tame);
        const bytes   v     = any_bytes(any_size(size_of(type_v, shape.n_v, pos.size())), tame);
        const void *  from_k = chance.one_in(100) ? nullptr : k.data();
        const void *  from_v = chance.one_in(100) ? nullptr : v.data();
        mistakes      wrong;
        if (!is_layer(il) || !sync[(size_t) il]) {
            wrong.insert(LLAMA_FED_E_LAYER);
        } else {
            check_positions(wrong, pos, cells_of((size_t) il));
        }
        check_buffer(wrong, type_k, shape.n_k, pos.size(), from_k, k.size());
        check_buffer(wrong, type_v, shape.n_v, pos.size(), from_v, v.size());
        if (shift == INT32_MIN) {
            wrong.insert(LLAMA_FED_E_ARG);
        }
        if (shift != 0 || type_k & LLAMA_FED_TYPE_CENTRED) {
            check_rotation(wrong);
        }
        if (!tame && !wrong.empty()) {
            wrong.insert(LLAMA_FED_E_VALUE);
        }
        llama_context *        c = in_hook ? ctx.get() : null_at_times(wrong);
        const exact<llama_pos> p(pos);
        const bool             done = keeping_others(il, pos, [&] {
            return answered("rows_set",
                            llama_fed_rows_set(c, il, p.data(), p.size(), shift, type_k, from_k, k.size(), type_v,
                                               from_v, v.size()),
                            wrong, !tame);
        });
        if (done) {
            check_finite((size_t) il, pos);
        }
    }

    void check_finite(size_t il, const positions & pos) const {
        std::vector<uint8_t> rows;
        append_rows(rows, il, pos);
        for (size_t i = 0; i < rows.size(); i += 2) {
            if ((rows[i + 1] & 0x7c) == 0x7c) {
                broken("layer %zu holds a value that is not finite after it was given rows", il);
            }
        }
    }

    void hide_local() {
        const int32_t   il  = any_layer();
        const positions pos = chance.one_in(2) ? existing(local) : vacant();
        mistakes        wrong;
        if (!is_layer(il) || sync[(size_t) il]) {
            wrong.insert(LLAMA_FED_E_LAYER);
        }
        std::set<llama_pos> hidden = is_layer(il) ? absent[(size_t) il] : std::set<llama_pos>();
        hidden.insert(pos.begin(), pos.end());
        if (!increasing(pos)) {
            wrong.insert(LLAMA_FED_E_ARG);
        } else if (hidden.size() > n_local) {
            wrong.insert(LLAMA_FED_E_FULL);
        }
        llama_context *        c = null_at_times(wrong);
        const exact<llama_pos> p(pos);
        if (answered("hide_local", llama_fed_hide_local(c, il, p.data(), p.size()), wrong)) {
            absent[(size_t) il] = hidden;
        }
    }

    // outside a hook
    void mask() {
        const exact<llama_pos> p(existing(in_sync));
        answered("mask", llama_fed_mask(ctx.get(), p.data(), p.size()), { LLAMA_FED_E_STATE });
    }

    // others' cells only: a token that does not see itself sees nothing
    void mask_in_hook() {
        std::set<llama_pos> remote;
        std::set_difference(in_sync.begin(), in_sync.end(), local.begin(), local.end(),
                            std::inserter(remote, remote.end()));
        positions pos = existing(remote);
        if (any_in(pos, local)) {
            return;
        }
        mistakes wrong;
        check_positions(wrong, pos, in_sync);
        const exact<llama_pos> p(pos);
        if (answered("mask", llama_fed_mask(ctx.get(), p.data(), p.size()), wrong)) {
            forget(pos);
        }
    }

    void truncate() {
        const llama_pos from = chance.between(0, std::min(last(), INT32_MAX - 2) + 2);
        llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, from, -1);
        ++n_calls;
        for (auto * cells : { &local, &in_sync }) {
            cells->erase(cells->lower_bound(from), cells->end());
        }
        for (auto & hidden : absent) {
            hidden.erase(hidden.lower_bound(from), hidden.end());
        }
        floor = std::min(floor, from - 1);
    }

    //
    // evaluation
    //

    void decode(size_t n, bool hooked) {
        const llama_pos first = after_last(1);
        if (first > of.most - (llama_pos) n) {
            return;
        }
        const bool room = local.size() + n <= n_local && in_sync.size() + n <= n_sync;

        std::vector<uint8_t> layers(of.n_layers());
        for (uint8_t & l : layers) {
            l = hooked && !chance.one_in(3);
        }
        answered("set_hook",
                 llama_fed_set_hook(ctx.get(), layers.data(), layers.size(), hooked ? on_layer : nullptr, this), {});
        stops   = hooked && chance.one_in(4);
        stopped = false;

        llama_batch batch = llama_batch_init((int32_t) n, 0, 1);
        batch.n_tokens    = (int32_t) n;
        positions pos(n);
        for (size_t i = 0; i < n; ++i) {
            pos[i]             = first + (llama_pos) i;
            batch.token[i]     = (llama_token) chance.below(N_VOCAB);
            batch.pos[i]       = pos[i];
            batch.n_seq_id[i]  = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i]    = i + 1 == n;
        }
        const int32_t res = llama_decode(ctx.get(), batch);
        llama_batch_free(batch);
        ++n_calls;
        if (res != (room ? 0 : 1)) {
            broken("llama_decode returned %d for %zu tokens, %zu and %zu of %u and %u cells in use", res, n,
                   local.size(), in_sync.size(), n_local, n_sync);
        }
        if (res == 0) {
            local.insert(pos.begin(), pos.end());
            in_sync.insert(pos.begin(), pos.end());
            evaluated = evaluated || !stopped;
        }
    }

    static int32_t on_layer(int32_t il, const llama_pos * pos, size_t n, void * user_data) {
        session & s = *static_cast<session *>(user_data);
        if (s.in_hook || n == 0 || n > s.n_ubatch || !s.is_layer(il)) {
            broken("the hook is called at layer %d with %zu tokens", il, n);
        }
        s.in_hook = true;
        s.local.insert(pos, pos + n);
        s.in_sync.insert(pos, pos + n);
        switch (s.chance.below(6)) {
            case 0:  s.get(il); break;
            case 1:
            case 2:  s.set(il); break;
            case 3:  s.mask_in_hook(); break;
            case 4:  s.forbidden(); break;
            default: break;
        }
        s.in_hook = false;
        s.stopped = s.stopped || s.stops;
        return s.stops && s.chance.one_in(2) ? 1 : 0;
    }

    // what a hook must not do
    void forbidden() {
        const positions            pos = existing(in_sync, false);
        const exact<llama_pos>     p(pos);
        const std::vector<uint8_t> layers(of.n_layers(), 1);
        llama_context *            c      = ctx.get();
        int32_t                    status = LLAMA_FED_OK;
        const mistakes             wrong  = { LLAMA_FED_E_STATE };
        switch (chance.below(8)) {
            case 0: answered("reserve", llama_fed_reserve(c, p.data(), p.size()), wrong); break;
            case 1: answered("release", llama_fed_release(c, p.data(), p.size()), wrong); break;
            case 2: answered("set_next_pos", llama_fed_set_next_pos(c, after_last(5)), wrong); break;
            case 3: answered("set_hook", llama_fed_set_hook(c, nullptr, 0, nullptr, nullptr), wrong); break;
            case 4: answered("hide_local", llama_fed_hide_local(c, 0, p.data(), p.size()), wrong); break;
            case 5: answered("set_output_hook", llama_fed_set_output_hook(c, nullptr, nullptr), wrong); break;
            case 6: answered("set_query_hook", llama_fed_set_query_hook(c, nullptr, nullptr), wrong); break;
            default:
                if (llama_fed_rows_keep(c, layers.data(), layers.size(), p.data(), p.size(), 1, &status)) {
                    broken("rows were kept in a hook");
                }
                answered("rows_keep", status, wrong);
        }
    }

    static void read_all(const float * x, size_t n) {
        volatile float sum = 0.0f;
        for (size_t i = 0; i < n; ++i) {
            sum = sum + x[i];
        }
    }

    void hooks() {
        llama_context * c  = ctx.get();
        const bool      on = chance.one_in(2);
        switch (chance.below(4)) {
            case 0:
                answered("set_output_hook", llama_fed_set_output_hook(c, on ? on_output : nullptr, this), {});
                break;
            case 1: answered("set_query_hook", llama_fed_set_query_hook(c, on ? on_query : nullptr, this), {}); break;
            case 2: {
                const size_t         n = of.n_layers() + (chance.one_in(8) ? 1 : 0);
                std::vector<uint8_t> layers(n);
                for (uint8_t & l : layers) {
                    l = (uint8_t) chance.below(2);
                }
                mistakes wrong;
                if (on && n != of.n_layers()) {
                    wrong.insert(LLAMA_FED_E_LAYER);
                }
                if (on && !of.home) {
                    wrong.insert(LLAMA_FED_E_UNSUPPORTED);
                }
                answered("set_home", llama_fed_set_home(c, layers.data(), n, on ? on_ask : nullptr, on_merge, this),
                         wrong);
                break;
            }
            default:
                answered("set_hook", llama_fed_set_hook(c, nullptr, of.n_layers(), on_layer, this),
                         { LLAMA_FED_E_ARG });
        }
        decode((size_t) chance.between(1, 12), false);
    }

    static void on_output(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_embd,
                          void * user_data) {
        session & s = *static_cast<session *>(user_data);
        if (!s.is_layer(il) || n == 0 || pos[0] < 0) {
            broken("the outputs of layer %d", il);
        }
        read_all(rows, n * n_embd);
        if (s.chance.one_in(8)) {
            s.forbidden();
        }
    }

    static void on_query(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_head,
                         uint32_t n_embd, void * user_data) {
        session & s = *static_cast<session *>(user_data);
        if (!s.is_layer(il) || n == 0 || pos[0] < 0 || n_head != s.of.layers[il].n_head_kv ||
            n_embd != s.of.layers[il].n_k) {
            broken("the queries of layer %d", il);
        }
        read_all(rows, n * n_embd);
    }

    static int32_t on_ask(int32_t il, const llama_pos * pos, size_t n, const float * q, uint32_t n_head, uint32_t n_dim,
                          void * user_data) {
        session & s = *static_cast<session *>(user_data);
        if (!s.is_layer(il) || n == 0 || pos[0] < 0 || n_head != s.of.layers[il].n_head) {
            broken("layer %d asks", il);
        }
        read_all(q, n * n_head * n_dim);
        return 0;
    }

    static int32_t on_merge(int32_t il, const llama_pos * pos, size_t n, float * out, float * lse, uint32_t n_head,
                            uint32_t n_dim, void * user_data) {
        session & s = *static_cast<session *>(user_data);
        if (!s.is_layer(il) || n == 0 || pos[0] < 0 || n_head != s.of.layers[il].n_head) {
            broken("layer %d merges", il);
        }
        read_all(lse, n * n_head);
        for (size_t i = 0; i < n * n_head * n_dim; ++i) {
            out[i] *= 0.5f;
        }
        return 0;
    }

    //
    // rows that stay home
    //

    void keep() {
        std::vector<uint8_t> layers(of.n_layers());
        bool                 any = false;
        for (uint8_t & l : layers) {
            l   = !chance.one_in(3);
            any = any || l;
        }
        const positions pos = existing(local);
        mistakes        wrong;
        if (pos.empty() || !any) {
            wrong.insert(LLAMA_FED_E_ARG);
        }
        if (!of.home) {
            wrong.insert(LLAMA_FED_E_UNSUPPORTED);
        }
        for (size_t il = 0; il < of.n_layers(); ++il) {
            if (layers[il]) {
                check_positions(wrong, pos, cells_of(il));
            }
        }
        if (!evaluated) {
            wrong.insert({ LLAMA_FED_OK, LLAMA_FED_E_STATE });
        }
        if (kept.size() >= MOST_KEPT) {
            kept.front().free();
            kept.erase(kept.begin());
        }
        llama_context *        c      = null_at_times(wrong);
        int32_t                status = LLAMA_FED_OK;
        const exact<llama_pos> p(pos);
        kept_rows              k;
        k.rows = llama_fed_rows_keep(c, layers.data(), layers.size(), p.data(), p.size(), chance.between(-1, 2),
                                     &status);
        if (!answered("rows_keep", status, wrong)) {
            return;
        }
        if (!k.rows || llama_fed_rows_bytes(k.rows) == 0) {
            broken("rows_keep: a status that is not about what it returned");
        }
        k.of     = &of;
        k.layers = layers;
        k.pos    = pos;
        k.turns  = llama_fed_can_shift(c) == LLAMA_FED_OK;
        kept.push_back(std::move(k));
    }

    void attend() {
        if (kept.empty()) {
            return;
        }
        const kept_rows & k     = chance.pick(kept);
        const int32_t     il    = chance.one_in(16) ? chance.any_int32() : (int32_t) chance.below(k.layers.size());
        const bool        there = il >= 0 && (size_t) il < k.layers.size() && k.layers[il];
        const layer_shape shape = k.of->layers[there ? il : 0];
        const size_t      n     = chance.one_in(40) ? 0 : (size_t) chance.between(1, 9);
        const llama_pos shift = chance.one_in(10) ? chance.any_int32() : chance.one_in(2) ? 0 : chance.between(-5, 90);
        const llama_pos first = chance.one_in(10) ? chance.any_int32() : k.pos.back() + chance.between(0, 120);
        const size_t    n_out = n * shape.n_head * (shape.n_v / shape.n_head_kv);
        const floats    q(any_size(n * shape.n_head * (shape.n_k / shape.n_head_kv)), 0);
        const floats    out(any_size(n_out), 0);
        const floats    lse(any_size(n * shape.n_head), 0);
        for (size_t i = 0; i < q.size(); ++i) {
            q.data()[i] = (float) chance.between(-1000, 1000) / 500.0f;
        }
        mistakes wrong;
        if (n == 0) {
            wrong.insert(LLAMA_FED_E_ARG);
        }
        if (!there) {
            wrong.insert(LLAMA_FED_E_LAYER);
        }
        if (q.size() != n * shape.n_head * (shape.n_k / shape.n_head_kv) || out.size() != n_out ||
            lse.size() != n * shape.n_head) {
            wrong.insert(LLAMA_FED_E_SIZE);
        }
        const int64_t from = (int64_t) k.pos.front() + shift;
        const int64_t to   = (int64_t) k.pos.back() + shift;
        if (from < 0 || to >= first || (int64_t) first + (int64_t) n > INT32_MAX) {
            wrong.insert(LLAMA_FED_E_POSITION);
        }
        if (shift != 0 && !k.turns) {
            wrong.insert({ LLAMA_FED_E_UNSUPPORTED, LLAMA_FED_OK }); // some layers' rows may be moved
        }
        if (q.size() > 0 && chance.one_in(40)) {
            q.data()[chance.below(q.size())] = chance.one_in(2) ? NAN : -INFINITY;
            wrong.insert(LLAMA_FED_E_VALUE);
        }
        answered("rows_attend",
                 llama_fed_rows_attend(k.rows, il, shift, first, n, q.data(), q.size(), out.data(), out.size(),
                                       lse.data(), lse.size()),
                 wrong);
    }

    //
    // the rest
    //

    void others() {
        switch (chance.below(6)) {
            case 0: {
                const int32_t  type   = chance.one_in(4) ? chance.any_int32() : (int32_t) chance.below(80);
                const uint32_t n_embd = (uint32_t) chance.below(20) * (chance.one_in(4) ? 1 : 32);
                const size_t   n      = chance.one_in(10) ? SIZE_MAX - chance.below(3) : chance.below(1000);
                const size_t   got    = llama_fed_rows_size(type, n_embd, n);
                ++n_calls;
                if (n < 1000 && got != size_of(type, n_embd, n)) {
                    broken("%zu rows of %u elements of type %d take %zu bytes", n, n_embd, type, got);
                }
                break;
            }
            case 1: {
                uint32_t      a = 0, b = 0, c = 0;
                const int32_t il = any_layer();
                mistakes      wrong;
                if (!is_layer(il)) {
                    wrong.insert(LLAMA_FED_E_LAYER);
                }
                answered("row_shape", llama_fed_row_shape(of.model.get(), il, &a, &b, &c), wrong);
                answered("head_count", llama_fed_head_count(of.model.get(), il, &a, &b), wrong);
                answered("row_shape", llama_fed_row_shape(of.model.get(), 0, &a, nullptr, &c), { LLAMA_FED_E_ARG });
                break;
            }
            case 2: bad_context(); break;
            case 3: state(); break;
            case 4:
                ++n_calls;
                if (!*llama_fed_strerror(chance.any_int32())) {
                    broken("a status without a sentence");
                }
                break;
            default: answered("rows_keep without rows", attend_nothing(), { LLAMA_FED_E_ARG });
        }
    }

    static int32_t attend_nothing() {
        float x[1] = {};
        llama_fed_rows_free(nullptr);
        return llama_fed_rows_attend(nullptr, 0, 0, 1, 1, x, 1, x, 1, x, 1);
    }

    void bad_context() {
        const std::vector<uint8_t> layers(of.n_layers() + 1, 1);
        const size_t               n    = of.n_layers();
        llama_context *            made = nullptr;
        switch (chance.below(5)) {
            case 0: made = create(nullptr, n, 256, 256, { LLAMA_FED_E_ARG }); break;
            case 1: made = create(layers.data(), n + 1, 256, 256, { LLAMA_FED_E_LAYER }); break;
            case 2: made = create(layers.data(), n, 512, 256, { LLAMA_FED_E_ARG }); break;
            case 3: made = create(layers.data(), n, 0, 256, { LLAMA_FED_E_ARG }); break;
            default:
#ifdef __SANITIZE_ADDRESS__ // its allocator refuses so much (max_allocation_size_mb); others may promise it
                made = create(layers.data(), n, 256, 1u << 20, { LLAMA_FED_E_MEMORY });
#endif
                break;
        }
        if (made) {
            broken("a context that must not be");
        }
    }

    // what was saved comes back; of a window llama.cpp saves only what is inside
    void state() {
        if (std::any_of(of.layers.begin(), of.layers.end(), [](const layer_shape & l) { return l.n_window > 0; })) {
            return;
        }
        const size_t         size = llama_state_seq_get_size(ctx.get(), 0);
        const bytes          saved(size, 0);
        std::vector<uint8_t> rows = snapshot();
        n_calls += 2;
        if (llama_state_seq_get_data(ctx.get(), saved.data(), size, 0) != size) {
            broken("the state is not as long as it is said to be");
        }
        if (llama_state_seq_set_data(ctx.get(), saved.data(), size, 0) == 0) {
            broken("a saved state is not taken back");
        }
        if (snapshot() != rows) {
            broken("a saved state comes back with other rows");
        }
    }

    void check_memory() const {
        llama_fed_memory m = {};
        answered("get_memory", llama_fed_get_memory(ctx.get(), &m), {});
        if (m.n_used_local != local.size() || m.n_used_sync != in_sync.size() || m.n_cells_local != n_local ||
            m.n_cells_sync != n_sync) {
            broken("%u and %u cells are in use, %zu and %zu should be", m.n_used_local, m.n_used_sync, local.size(),
                   in_sync.size());
        }
    }

    const subject &          of;
    dice &                   chance;
    std::vector<kept_rows> & kept;

    std::vector<uint8_t> sync;
    uint32_t             n_local  = 0;
    uint32_t             n_sync   = 0;
    uint32_t             n_ubatch = 0;
    llama_context_ptr    ctx;

    // the ledger
    std::set<llama_pos>              local;      // positions that have cells in the local cache
    std::set<llama_pos>              in_sync;    // and in the sync cache
    llama_pos                        floor = -1; // set_next_pos
    std::vector<std::set<llama_pos>> absent;     // hide_local

    bool evaluated = false; // all layers were
    bool in_hook   = false;
    bool stops     = false;
    bool stopped   = false;
};

} // namespace

int main(int argc, char ** argv) {
    uint64_t    n    = 10000;
    uint64_t    seed = 1;
    std::string plant;
    for (int opt; (opt = getopt(argc, argv, "dn:s:p:")) != -1;) {
        switch (opt) {
            case 'd': device = far_device(); break;
            case 'n': n = strtoull(optarg, nullptr, 10); break;
            case 's': seed = strtoull(optarg, nullptr, 10); break;
            case 'p': plant = optarg; break;
            default:  fprintf(stderr, "usage: %s [-d] [-n CALLS] [-s SEED] [-p PLANT]\n", argv[0]); return 2;
        }
    }
    seed_used = seed;
    setenv("GGML_NO_BACKTRACE", "1", 1);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);

    std::vector<std::unique_ptr<subject>> subjects;
    for (const variant & v : variants(ARCHS)) {
        model_name = v.name();
        subjects.push_back(std::make_unique<subject>(v));
    }
    dice                   chance(seed);
    std::vector<kept_rows> kept;
    if (!plant.empty()) {
        while (!session(*subjects[0], chance, kept).plant(plant)) {
        }
        return 0;
    }
    for (size_t i = 0; n_calls < n; ++i) {
        const subject & of = *subjects[i % subjects.size()];
        model_name         = of.name;
        session        s(of, chance, kept);
        const uint64_t end = std::min(n, n_calls + CALLS_A_CONTEXT);
        while (n_calls < end) {
            s.call();
        }
    }
    for (kept_rows & k : kept) {
        k.free();
    }
    printf("test-calls: %llu calls on %zu models, %llu of them refused as they had to be, seed %llu\n",
           (unsigned long long) n_calls, subjects.size(), (unsigned long long) n_refused, (unsigned long long) seed);
    if (device) {
        const far_counts counts = far_counted();
        printf("test-calls: %zu nodes on the device, %zu reads and %zu writes of its caches\n", counts.nodes,
               counts.rows_read, counts.rows_written);
        return counts.nodes == 0 || counts.rows_read == 0 || counts.rows_written == 0;
    }
    return 0;
}
