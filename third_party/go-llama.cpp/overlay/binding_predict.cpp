#include "binding_predict.h"

#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

namespace binding {

namespace {

std::vector<llama_logit_bias> parse_bias(const std::string & text, int n_vocab) {
    std::vector<llama_logit_bias> list;
    const char *                  p = text.c_str();
    while (*p) {
        char *     end   = nullptr;
        const long token = std::strtol(p, &end, 10);
        if (end == p || (*end != '+' && *end != '-')) {
            throw error("logit bias \"" + text + "\" is not of the form token+bias or token-bias");
        }
        if (token < 0 || token >= n_vocab) {
            throw error(string_format("logit bias: %ld is not a token of the model", token));
        }
        p                = end;
        const float bias = std::strtof(p, &end);
        if (end == p || (*end != '\0' && *end != ',') || std::isnan(bias)) {
            throw error("logit bias \"" + text + "\" is not of the form token+bias or token-bias");
        }
        list.push_back({ (llama_token) token, bias });
        p = *end == ',' ? end + 1 : end;
    }
    return list;
}

class sampler {
public:
    sampler(const model & m, const request & r, llama_context * ctx)
        : grammar(!r.grammar.empty()),
          newline(r.penalize_newline ? LLAMA_TOKEN_NULL : llama_vocab_nl(m.vocab())) {
        if (r.tail_free_z < 1.0f) {
            throw error("llama.cpp no longer has tail-free sampling: z must be 1");
        }
        if (r.mirostat < 0 || r.mirostat > 2) {
            throw error(string_format("mirostat %d is not one of 0, 1 and 2", r.mirostat));
        }
        const int n_vocab = llama_vocab_n_tokens(m.vocab());

        common_params_sampling p;
        p.no_perf         = true;
        p.top_k           = r.top_k;
        p.top_p           = r.top_p;
        p.min_p           = 0.0f;
        p.typ_p           = r.typical_p;
        p.temp            = std::max(0.0f, r.temperature);
        p.penalty_last_n  = r.penalty_last_n < 0 ? (int) llama_n_ctx(ctx) : r.penalty_last_n;
        p.penalty_repeat  = r.repeat_penalty;
        p.penalty_freq    = r.frequency_penalty;
        p.penalty_present = r.presence_penalty;
        p.mirostat        = p.temp > 0.0f ? r.mirostat : 0;
        p.mirostat_eta    = r.mirostat_eta;
        p.mirostat_tau    = r.mirostat_tau;
        p.samplers        = { COMMON_SAMPLER_TYPE_PENALTIES, COMMON_SAMPLER_TYPE_TOP_K, COMMON_SAMPLER_TYPE_TYPICAL_P,
                              COMMON_SAMPLER_TYPE_TOP_P, COMMON_SAMPLER_TYPE_TEMPERATURE };
        if (r.seed >= 0) {
            p.seed = (uint32_t) r.seed;
        } else if (m.options.seed != 0) {
            p.seed = (uint32_t) m.options.seed;
        }

        p.logit_bias = parse_bias(r.logit_bias, n_vocab);
        if (r.ignore_eos) {
            for (llama_token t = 0; t < n_vocab; t++) {
                if (llama_vocab_is_eog(m.vocab(), t)) {
                    p.logit_bias.push_back({ t, -INFINITY });
                }
            }
        }
        if (grammar) {
            // tried alone first: common_sampler_init leaks its other parts when a grammar does not parse
            if (!llama_sampler_ptr(llama_sampler_init_grammar(m.vocab(), r.grammar.c_str(), "root"))) {
                throw error("the grammar does not parse");
            }
            p.grammar = common_grammar(COMMON_GRAMMAR_TYPE_USER, r.grammar);
        }
        impl.reset(common_sampler_init(m.get(), p));
    }

    // Tokens of the prompt count for the penalties.
    void see(const std::vector<llama_token> & prompt) {
        for (const llama_token t : prompt) {
            if (t != newline) {
                common_sampler_accept(impl.get(), t, false);
            }
        }
    }

    // Chooses a token from an output of the last evaluation. LLAMA_TOKEN_NULL when the grammar allows none.
    llama_token next(llama_context * ctx, int index) {
        const llama_token id = common_sampler_sample(impl.get(), ctx, index);
        if (grammar) {
            const llama_token_data_array * c = common_sampler_get_candidates(impl.get(), false);
            if (c->selected < 0 || !(c->data[c->selected].logit > -INFINITY)) {
                return LLAMA_TOKEN_NULL;
            }
        }
        // a token that the penalties never see is never penalised; a grammar must see all
        if (grammar || id != newline) {
            common_sampler_accept(impl.get(), id, true);
        }
        return id;
    }

private:
    common_sampler_ptr impl;
    bool               grammar;
    llama_token        newline; // the token to spare, LLAMA_TOKEN_NULL: none
};

// Collects the text, hands its pieces on and finds stop words.
class output {
public:
    output(const model & m, const std::vector<std::string> & stops, const piece_callback & on_piece)
        : vocab(m.vocab()),
          stops(stops),
          on_piece(on_piece) {}

    // False when the generation ends with this token.
    bool add(llama_token token) {
        if (token == LLAMA_TOKEN_NULL || llama_vocab_is_eog(vocab, token)) {
            return false;
        }
        const std::string piece = common_token_to_piece(vocab, token, false);
        if (!on_piece(piece)) {
            return false;
        }
        const size_t before = text.size();
        text += piece;
        size_t cut = std::string::npos;
        for (const std::string & stop : stops) {
            // a stop word ends in this piece or it would have been found before
            const size_t from = before + 1 > stop.size() ? before + 1 - stop.size() : 0;
            cut               = std::min(cut, text.find(stop, from));
        }
        if (cut != std::string::npos) {
            text.resize(cut);
            return false;
        }
        return true;
    }

    std::string text;

private:
    const llama_vocab *              vocab;
    const std::vector<std::string> & stops;
    const piece_callback &           on_piece;
};

// Classifier-free guidance: the logits are moved away from those that follow a negative prompt.
class guidance {
public:
    guidance(const model & m, const std::vector<llama_token> & prompt, float scale)
        : ctx(m.new_context()),
          seq(ctx.get()),
          keep(prompt.size()),
          scale(scale),
          n_vocab(llama_vocab_n_tokens(m.vocab())) {
        llama_context * main = m.context();
        llama_set_n_threads(ctx.get(), llama_n_threads(main), llama_n_threads_batch(main));
        seq.append(prompt);
    }

    bool append(llama_token token) {
        if (seq.room() == 0 && !seq.shift(keep)) {
            return false;
        }
        seq.append(&token, 1);
        return true;
    }

    // Changes logits [n_vocab] in place.
    void apply(float * logits) const {
        const float * away  = llama_get_logits_ith(ctx.get(), -1);
        const float   z     = log_sum_exp(logits);
        const float   zaway = log_sum_exp(away);
        for (int i = 0; i < n_vocab; i++) {
            const float bad = away[i] - zaway;
            logits[i]       = bad + scale * (logits[i] - z - bad);
        }
    }

private:
    float log_sum_exp(const float * x) const {
        const float top = *std::max_element(x, x + n_vocab);
        double      sum = 0;
        for (int i = 0; i < n_vocab; i++) {
            sum += std::exp(x[i] - top);
        }
        return top + (float) std::log(sum);
    }

    llama_context_ptr ctx;
    sequence          seq;
    size_t            keep;
    float             scale;
    int               n_vocab;
};

// The tokens to continue from. A text without tokens starts from BOS.
std::vector<llama_token> prompt_tokens(const model & m, const std::string & text) {
    std::vector<llama_token> tokens = m.tokenize(text);
    if (!tokens.empty() && llama_vocab_get_add_eos(m.vocab()) && tokens.back() == llama_vocab_eos(m.vocab())) {
        tokens.pop_back(); // the text goes on
    }
    if (tokens.empty()) {
        const llama_token bos = llama_vocab_bos(m.vocab());
        if (bos == LLAMA_TOKEN_NULL) {
            throw error("the prompt is empty and the model has no token to begin with");
        }
        tokens.push_back(bos);
    }
    return tokens;
}

void check_length(const std::vector<llama_token> & prompt, llama_context * ctx) {
    if (prompt.size() >= llama_n_ctx(ctx)) {
        throw error(string_format("the prompt has %zu tokens, a context of %u takes one less than that at most",
                                  prompt.size(), llama_n_ctx(ctx)));
    }
}

double ms_since(int64_t start_us) {
    return (double) (llama_time_us() - start_us) / 1000.0;
}

// Guesses up to n tokens behind text and last with the draft model: those of which it is twice as sure as of the next
// best. seq is a beginning of text.
std::vector<llama_token> guess(const model & m, sequence & seq, const std::vector<llama_token> & text, llama_token last,
                               size_t n) {
    std::vector<llama_token> tokens(text.begin() + (ptrdiff_t) seq.size(), text.end());
    tokens.push_back(last);
    std::vector<llama_token> guessed;
    if (n == 0 || seq.room() < tokens.size() + n) {
        return guessed;
    }
    seq.append(tokens);
    const int n_vocab = llama_vocab_n_tokens(m.vocab());
    for (;;) {
        const float * logits = llama_get_logits_ith(seq.context(), -1);
        int           best   = 0;
        float         second = -INFINITY;
        for (int i = 1; i < n_vocab; i++) {
            if (logits[i] > logits[best]) {
                second = logits[best];
                best   = i;
            } else {
                second = std::max(second, logits[i]);
            }
        }
        if (logits[best] - second < std::log(2.0f)) {
            return guessed;
        }
        guessed.push_back(best);
        if (guessed.size() == n || llama_vocab_is_eog(m.vocab(), best)) {
            return guessed;
        }
        seq.append(&guessed.back(), 1);
    }
}

void check_same_vocabulary(const model & a, const model & b) {
    const llama_vocab * va = a.vocab();
    const llama_vocab * vb = b.vocab();
    if (llama_vocab_type(va) != llama_vocab_type(vb) || llama_vocab_n_tokens(va) != llama_vocab_n_tokens(vb) ||
        llama_vocab_bos(va) != llama_vocab_bos(vb) || llama_vocab_eos(va) != llama_vocab_eos(vb)) {
        throw error("the draft model has another vocabulary than the target");
    }
}

} // namespace

std::string predict(model & m, const request & r, const piece_callback & on_piece, statistics & stats) {
    const int64_t   start = llama_time_us();
    sequence &      seq   = m.begin(r.threads, r.batch, true);
    llama_context * ctx   = seq.context();

    bool            save = !r.cache_path.empty() && !r.cache_read_only;
    std::error_code ec;
    if (!r.cache_path.empty() && std::filesystem::exists(r.cache_path, ec)) {
        seq.load(r.cache_path);
    }

    // without a prompt, go on from what was evaluated before
    const bool                     go_on  = r.prompt.empty() && seq.size() > 0;
    const std::vector<llama_token> prompt = go_on ? seq.tokens() : prompt_tokens(m, r.prompt);
    check_length(prompt, ctx);
    sampler sample(m, r, ctx);
    sample.see(prompt);

    const bool cached = seq.size() >= prompt.size() && std::equal(prompt.begin(), prompt.end(), seq.tokens().begin());
    stats.prompt      = prompt.size();
    stats.reused      = seq.reuse(prompt);
    seq.append(prompt.data() + seq.size(), prompt.size() - seq.size());
    if (save && !cached) {
        seq.save(r.cache_path);
    }

    std::unique_ptr<guidance> guide;
    if (r.negative_scale > 1.0f) {
        guide = std::make_unique<guidance>(m, prompt_tokens(m, r.negative_prompt), r.negative_scale);
    }
    const size_t keep = r.keep < 0 ? prompt.size() : std::min((size_t) r.keep, prompt.size());
    stats.prompt_ms   = ms_since(start);

    const int64_t start_generate = llama_time_us();
    output        out(m, r.stops, on_piece);
    for (int left = r.tokens; left > 0; left--) {
        if (guide) {
            guide->apply(llama_get_logits_ith(ctx, -1));
        }
        const llama_token id = sample.next(ctx, -1);
        if (!out.add(id)) {
            break;
        }
        stats.generated++;
        if (left == 1) {
            break;
        }
        if (seq.room() == 0) {
            save = false; // what is in the cache is no longer the text from its start
            if (!seq.shift(keep)) {
                break;
            }
        }
        seq.append(&id, 1);
        if (guide && !guide->append(id)) {
            break;
        }
    }
    stats.generate_ms = ms_since(start_generate);
    if (save && r.cache_all && stats.generated > 0) {
        seq.save(r.cache_path);
    }
    return std::move(out.text);
}

std::string speculate(model & target, model & draft, const request & r, const piece_callback & on_piece,
                      statistics & stats) {
    const int64_t start = llama_time_us();
    check_same_vocabulary(target, draft);
    sequence & seq   = target.begin(r.threads, r.batch, true);
    sequence & ahead = draft.begin(r.threads, r.batch, true);

    std::vector<llama_token> prompt = prompt_tokens(target, r.prompt);
    check_length(prompt, seq.context());
    sampler sample(target, r, seq.context());
    sample.see(prompt);

    // seq holds the text except its last token; ahead a beginning of that
    llama_token last = prompt.back();
    stats.prompt     = prompt.size();
    stats.reused     = seq.reuse(prompt);
    ahead.reuse(prompt);
    prompt.pop_back();
    seq.append(prompt.data() + seq.size(), prompt.size() - seq.size());
    stats.prompt_ms = ms_since(start);

    const int64_t start_generate = llama_time_us();
    const size_t  n_draft = std::min(r.draft > 0 ? (size_t) r.draft : 8, (size_t) llama_n_batch(seq.context()) - 1);
    output        out(target, r.stops, on_piece);
    size_t        left = (size_t) std::max(0, r.tokens);
    bool          more = left > 0;
    while (more && seq.room() > 0) {
        const size_t             n       = std::min({ n_draft, left - 1, seq.room() - 1 });
        std::vector<llama_token> window  = { last };
        std::vector<llama_token> guessed = guess(draft, ahead, seq.tokens(), last, n);
        window.insert(window.end(), guessed.begin(), guessed.end());
        stats.drafted += guessed.size();

        const size_t base = seq.size();
        seq.append(window, true);
        size_t right = 0; // guesses that the target confirmed
        for (;;) {
            last = sample.next(seq.context(), (int) right);
            more = out.add(last);
            if (more) {
                stats.generated++;
                more = --left > 0;
            }
            if (!more || right == guessed.size() || guessed[right] != last) {
                break;
            }
            right++;
        }
        stats.accepted += right;
        if (!seq.truncate(base + right + 1) || !ahead.truncate(std::min(ahead.size(), base + right + 1))) {
            throw error("speculative sampling needs models whose cache can forget single tokens");
        }
    }
    stats.generate_ms = ms_since(start_generate);
    return std::move(out.text);
}

void evaluate(model & m, const request & r) {
    sequence &                     seq    = m.begin(r.threads, r.batch, true);
    const std::vector<llama_token> prompt = prompt_tokens(m, r.prompt);
    check_length(prompt, seq.context());
    seq.truncate(0);
    seq.append(prompt);
    m.keep();
}

} // namespace binding
