#include "oracle.h"

#include "llama-cpp.h"
#include "llama-fed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

namespace {

// Prefix, two contributors, publisher. The tiny models' windows are 32 positions long: the publisher's reach into the
// first contributor's segment at its beginning and leave all others' rows behind at its end.
constexpr size_t N_PREFIX    = 5;
constexpr size_t N_SEGMENT[] = { 41, 1, 40 };
constexpr size_t N_SEGMENTS  = 3;
constexpr size_t PUBLISHER   = N_SEGMENTS - 1;

// llama.cpp attends to a multiple of this many cells.
constexpr uint32_t N_CELLS = 256;

// K rows are rounded to f16 before and after they are rotated, and the layers above inherit the difference.
constexpr double ROTATION_TOLERANCE = 0.01;

using token_list = std::vector<llama_token>;
using layer_set  = std::vector<uint8_t>; // [layers], non-zero for members

struct block {
    std::vector<ggml_fp16_t> k; // [rows][elements of a K row]
    std::vector<ggml_fp16_t> v; // [rows][elements of a V row]
};

using rows_by_layer = std::vector<block>; // [layers]

struct segment {
    llama_pos     first = 0; // position of its first token
    token_list    tokens;
    rows_by_layer rows; // when its owner has evaluated it

    std::vector<llama_pos> positions() const {
        std::vector<llama_pos> out(tokens.size());
        std::iota(out.begin(), out.end(), first);
        return out;
    }
};

[[noreturn]] void fail(const std::string & what) {
    throw std::runtime_error(what);
}

void must(int32_t status, const char * call) {
    if (status != LLAMA_FED_OK) {
        fail(std::string(call) + ": " + llama_fed_strerror(status));
    }
}

llama_context_params context_params() {
    llama_context_params params = llama_context_default_params();
    params.n_ctx                = N_CELLS;
    params.n_batch              = N_CELLS;
    params.n_ubatch             = *std::max_element(std::begin(N_SEGMENT), std::end(N_SEGMENT));
    params.n_threads            = 1;
    params.n_threads_batch      = 1;
    params.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.no_perf              = true;
    return params;
}

// Evaluates tokens as one micro-batch from position first on.
void decode(llama_context * ctx, const token_list & tokens, llama_pos first, bool outputs) {
    llama_batch batch = llama_batch_init((int32_t) tokens.size(), 0, 1);
    for (size_t i = 0; i < tokens.size(); ++i) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = first + (llama_pos) i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = outputs;
    }
    batch.n_tokens    = (int32_t) tokens.size();
    const int32_t res = llama_decode(ctx, batch);
    llama_batch_free(batch);
    if (res != 0) {
        fail("llama_decode returned " + std::to_string(res));
    }
}

// Logits of the last micro-batch, [n][vocabulary].
std::vector<float> logits(llama_context * ctx, size_t n) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(ctx));
    std::vector<float>  out;
    for (size_t i = 0; i < n; ++i) {
        const float * row = llama_get_logits_ith(ctx, (int32_t) i);
        if (!row) {
            fail("there are no logits");
        }
        out.insert(out.end(), row, row + llama_vocab_n_tokens(vocab));
    }
    // equal bits of NaN would prove nothing
    if (!std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); })) {
        fail("logits are not finite");
    }
    return out;
}

bool same_bits(const std::vector<float> & a, const std::vector<float> & b) {
    return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double max_difference(const std::vector<float> & a, const std::vector<float> & b) {
    double worst = a.size() == b.size() ? 0.0 : INFINITY;
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
        worst = std::max(worst, std::fabs((double) a[i] - b[i]));
    }
    return worst;
}

// max |a - b| over max |b|
double relative_error(const std::vector<ggml_fp16_t> & a, const std::vector<ggml_fp16_t> & b) {
    if (a.size() != b.size()) {
        return INFINITY;
    }
    double difference = 0.0;
    double scale      = 0.0;
    for (size_t i = 0; i < b.size(); ++i) {
        const double x = ggml_fp16_to_fp32(a[i]);
        const double y = ggml_fp16_to_fp32(b[i]);
        difference     = std::max(difference, std::fabs(x - y));
        scale          = std::max(scale, std::fabs(y));
    }
    return difference == 0.0 ? 0.0 : difference / scale;
}

llama_context_ptr fed_context(llama_model * model, const layer_set & sync, char * reason, size_t reason_size) {
    const llama_fed_params params = { sync.data(), sync.size(), N_CELLS, N_CELLS };
    return llama_context_ptr(llama_fed_init(model, context_params(), &params, nullptr, reason, reason_size));
}

class checker {
public:
    checker(llama_model * model, uint32_t n_vocab) : model(model), every(llama_model_n_layer(model), 1) {
        std::mt19937 gen(1234);
        const auto   draw = [&](size_t n) {
            token_list out(n);
            std::generate(out.begin(), out.end(), [&] { return (llama_token) (gen() % n_vocab); });
            return out;
        };
        prefix          = draw(N_PREFIX);
        llama_pos first = N_PREFIX;
        for (size_t i = 0; i < N_SEGMENTS; ++i) {
            segments[i].tokens = draw(N_SEGMENT[i]);
            segments[i].first  = first;
            first += (llama_pos) N_SEGMENT[i];
        }
    }

    // One process: llama.cpp's own cache, each segment a micro-batch. Returns the publisher's logits.
    std::vector<float> centralised() const {
        const llama_context_ptr ctx(llama_init_from_model(model, context_params()));
        if (!ctx) {
            fail("llama.cpp makes no context");
        }
        decode(ctx.get(), prefix, 0, false);
        for (size_t i = 0; i < N_SEGMENTS; ++i) {
            decode(ctx.get(), segments[i].tokens, segments[i].first, i == PUBLISHER);
        }
        return logits(ctx.get(), segments[PUBLISHER].tokens.size());
    }

    void check_identity() {
        const std::vector<float> want = centralised();
        for (size_t i = 0; i < PUBLISHER; ++i) {
            evaluate(i, every);
        }
        const std::vector<float> got = evaluate(PUBLISHER, every);
        if (!same_bits(got, want)) {
            fail("not bit-identical: max |difference of logits| = " + std::to_string(max_difference(got, want)));
        }

        // the comparison can fail: one value of one row of a contributor is changed, one layer is local
        ggml_fp16_t &     value      = segments[0].rows[0].v.back();
        const ggml_fp16_t true_value = value;
        value                        = ggml_fp32_to_fp16(ggml_fp16_to_fp32(value) + 1.0f);
        if (same_bits(evaluate(PUBLISHER, every), want)) {
            fail("a contributor's row was changed and the logits were not");
        }
        value = true_value;

        layer_set but_first = every;
        but_first[0]        = 0;
        if (same_bits(evaluate(PUBLISHER, but_first), want)) {
            fail("a local layer saw other participants' rows");
        }
    }

    fed_findings check_rotation() const {
        // without a prefix all distances are the same at both places
        const segment &     own       = segments[PUBLISHER];
        const rows_by_layer in_place  = evaluate_alone(own.tokens, own.first);
        const rows_by_layer canonical = evaluate_alone(own.tokens, 0);

        const llama_context_ptr receiver = context(every);
        decode(receiver.get(), prefix, 0, false); // shows the library each layer's RoPE
        const auto pos = own.positions();
        must(llama_fed_reserve(receiver.get(), pos.data(), pos.size()), "llama_fed_reserve");

        fed_findings  out;
        const int32_t can_shift = llama_fed_can_shift(receiver.get());
        if (can_shift == LLAMA_FED_E_UNSUPPORTED) {
            if (place_all(receiver.get(), pos, canonical, own.first) != LLAMA_FED_E_UNSUPPORTED) {
                fail("K rows were moved although they cannot be");
            }
            return out;
        }
        must(can_shift, "llama_fed_can_shift");

        const auto error_of_shift = [&](llama_pos shift) {
            must(place_all(receiver.get(), pos, canonical, shift), "llama_fed_rows_set");
            return worst_error(read_all(receiver.get(), pos), in_place);
        };
        out.rotation_error = error_of_shift(own.first);
        if (!(out.rotation_error <= ROTATION_TOLERANCE)) {
            fail("moved K rows are not those of their new position: relative error " +
                 std::to_string(out.rotation_error));
        }
        if (error_of_shift(0) <= ROTATION_TOLERANCE) {
            out.rotation = fed_rotation::INDEPENDENT;
            return out;
        }
        // one position beside the right one must be told apart
        if (error_of_shift(own.first - 1) <= ROTATION_TOLERANCE) {
            fail("K rows moved to a neighbouring position pass for those of their own");
        }
        out.rotation = fed_rotation::ROTATES;
        return out;
    }

private:
    llama_context_ptr context(const layer_set & sync) const {
        char              reason[256] = "";
        llama_context_ptr ctx         = fed_context(model, sync, reason, sizeof(reason));
        if (!ctx) {
            fail(std::string("llama_fed_init: ") + reason);
        }
        return ctx;
    }

    int32_t place(llama_context * ctx, size_t il, const std::vector<llama_pos> & pos, llama_pos shift,
                  const block & rows) const {
        return llama_fed_rows_set(ctx, (int32_t) il, pos.data(), pos.size(), shift, LLAMA_FED_TYPE_F16, rows.k.data(),
                                  rows.k.size() * sizeof(ggml_fp16_t), LLAMA_FED_TYPE_F16, rows.v.data(),
                                  rows.v.size() * sizeof(ggml_fp16_t));
    }

    block read(llama_context * ctx, size_t il, const std::vector<llama_pos> & pos) const {
        uint32_t n_k    = 0;
        uint32_t n_v    = 0;
        uint32_t window = 0;
        must(llama_fed_row_shape(model, (int32_t) il, &n_k, &n_v, &window), "llama_fed_row_shape");
        block rows = { std::vector<ggml_fp16_t>(pos.size() * n_k), std::vector<ggml_fp16_t>(pos.size() * n_v) };
        must(llama_fed_rows_get(ctx, (int32_t) il, pos.data(), pos.size(), LLAMA_FED_TYPE_F16, rows.k.data(),
                                rows.k.size() * sizeof(ggml_fp16_t), LLAMA_FED_TYPE_F16, rows.v.data(),
                                rows.v.size() * sizeof(ggml_fp16_t)),
             "llama_fed_rows_get");
        return rows;
    }

    // The first layer's refusal, or LLAMA_FED_OK.
    int32_t place_all(llama_context * ctx, const std::vector<llama_pos> & pos, const rows_by_layer & rows,
                      llama_pos shift) const {
        for (size_t il = 0; il < every.size(); ++il) {
            const int32_t res = place(ctx, il, pos, shift, rows[il]);
            if (res != LLAMA_FED_OK) {
                return res;
            }
        }
        return LLAMA_FED_OK;
    }

    rows_by_layer read_all(llama_context * ctx, const std::vector<llama_pos> & pos) const {
        rows_by_layer out;
        for (size_t il = 0; il < every.size(); ++il) {
            out.push_back(read(ctx, il, pos));
        }
        return out;
    }

    static double worst_error(const rows_by_layer & a, const rows_by_layer & b) {
        double worst = 0.0;
        for (size_t il = 0; il < a.size(); ++il) {
            worst = std::max({ worst, relative_error(a[il].k, b[il].k), relative_error(a[il].v, b[il].v) });
        }
        return worst;
    }

    // One participant, in whose hook the rows of all earlier segments are placed. A contributor keeps its own rows and
    // stops behind the last layer; the publisher's logits are returned.
    std::vector<float> evaluate(size_t index, const layer_set & sync) {
        segment &               own = segments[index];
        const llama_context_ptr ctx = context(sync);
        decode(ctx.get(), prefix, 0, false);
        for (size_t i = 0; i < index; ++i) {
            const auto pos = segments[i].positions();
            must(llama_fed_reserve(ctx.get(), pos.data(), pos.size()), "llama_fed_reserve");
        }
        must(llama_fed_set_next_pos(ctx.get(), own.first), "llama_fed_set_next_pos");

        own.rows.clear();
        pass p = { this, ctx.get(), index, &sync, "" };
        must(llama_fed_set_hook(ctx.get(), every.data(), every.size(), on_layer, &p), "llama_fed_set_hook");
        decode(ctx.get(), own.tokens, own.first, index == PUBLISHER);
        if (!p.error.empty()) {
            fail(p.error);
        }
        if (own.rows.size() != every.size()) {
            fail("the hook was called at " + std::to_string(own.rows.size()) + " of " + std::to_string(every.size()) +
                 " layers");
        }
        return index == PUBLISHER ? logits(ctx.get(), own.tokens.size()) : std::vector<float>();
    }

    // What the hook needs; exceptions do not pass through llama.cpp.
    struct pass {
        checker *         self;
        llama_context *   ctx;
        size_t            index; // of the segment
        const layer_set * sync;
        std::string       error;
    };

    static int32_t on_layer(int32_t il, const llama_pos * pos, size_t n, void * user_data) {
        pass & p = *static_cast<pass *>(user_data);
        try {
            return p.self->exchange(p, (size_t) il, { pos, pos + n });
        } catch (const std::exception & e) {
            p.error = e.what();
            return 1;
        }
    }

    // Non-zero to stop.
    int32_t exchange(const pass & p, size_t il, const std::vector<llama_pos> & pos) {
        segment & own = segments[p.index];
        if (pos != own.positions() || il != own.rows.size()) {
            fail("the hook was called with other positions than the segment's, or at another layer than the next");
        }
        for (size_t i = 0; i < p.index && (*p.sync)[il]; ++i) {
            must(place(p.ctx, il, segments[i].positions(), 0, segments[i].rows[il]), "llama_fed_rows_set");
        }
        own.rows.push_back(read(p.ctx, il, pos));
        return p.index != PUBLISHER && il + 1 == every.size();
    }

    // The rows of tokens from position first on, with nothing before them.
    rows_by_layer evaluate_alone(const token_list & tokens, llama_pos first) const {
        const segment           alone = { first, tokens, {} };
        const llama_context_ptr ctx   = context(layer_set(every.size(), 0));
        must(llama_fed_set_next_pos(ctx.get(), first), "llama_fed_set_next_pos");
        decode(ctx.get(), tokens, first, false);
        return read_all(ctx.get(), alone.positions());
    }

    llama_model * model;
    layer_set     every; // all layers
    token_list    prefix;
    segment       segments[N_SEGMENTS];
};

} // namespace

std::string fed_refusal(llama_model * model) {
    char reason[256] = "";
    if (llama_fed_check_model(model, reason, sizeof(reason)) != LLAMA_FED_OK) {
        return reason;
    }
    // some models show it only when their context is made
    const layer_set         every(llama_model_n_layer(model), 1);
    const llama_context_ptr ctx = fed_context(model, every, reason, sizeof(reason));
    return ctx ? "" : reason;
}

void fed_run_centralised(llama_model * model, uint32_t n_vocab) {
    checker(model, n_vocab).centralised();
}

fed_findings fed_check(llama_model * model, uint32_t n_vocab) {
    checker check(model, n_vocab);
    check.check_identity();
    return check.check_rotation();
}
