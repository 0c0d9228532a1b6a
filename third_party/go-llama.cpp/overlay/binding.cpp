#include "binding.h"

#include "binding_inputs.h"
#include "binding_log.h"
#include "binding_predict.h"

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>

namespace {

using binding::error;
using binding::model;
using binding::request;

// The models that states name. Never destroyed: calls may still run while the process ends.
class registry {
public:
    void * add(std::shared_ptr<model> m) {
        // never freed, so that a state used after its end cannot name a later model
        void * state = std::malloc(1);
        if (!state) {
            throw std::bad_alloc();
        }
        const std::lock_guard<std::mutex> lock(mutex);
        models.emplace(state, std::move(m));
        return state;
    }

    std::shared_ptr<model> find(void * state) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto                        it = models.find(state);
        return it == models.end() ? nullptr : it->second;
    }

    std::shared_ptr<model> remove(void * state) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto                        it = models.find(state);
        if (it == models.end()) {
            return nullptr;
        }
        std::shared_ptr<model> m = std::move(it->second);
        models.erase(it);
        return m;
    }

    void set_load_error(std::string text) {
        const std::lock_guard<std::mutex> lock(mutex);
        load_error_text = std::move(text);
    }

    std::string load_error() {
        const std::lock_guard<std::mutex> lock(mutex);
        return load_error_text;
    }

private:
    std::mutex                                         mutex;
    std::unordered_map<void *, std::shared_ptr<model>> models;
    std::string                                        load_error_text;
};

registry & states() {
    static auto * r = new registry;
    return *r;
}

std::shared_ptr<model> need(void * state) {
    std::shared_ptr<model> m = states().find(state);
    if (!m) {
        throw error("the model has been freed");
    }
    return m;
}

const request & need_request(const void * params) {
    if (!params) {
        throw error("there are no parameters");
    }
    return *static_cast<const request *>(params);
}

// Runs body and turns whatever it throws into a text for fail.
template <typename Body, typename Fail> bool guarded(Body && body, Fail && fail) noexcept {
    try {
        try {
            body();
            return true;
        } catch (const std::exception & e) {
            fail(e.what());
        } catch (...) {
            fail("an exception of unknown type");
        }
    } catch (...) { // no memory even for the reason
    }
    return false;
}

// Finds the model; a failure of body is logged under name and kept for llama_binding_error.
template <typename Body> int attempt(const char * name, void * state, Body && body) noexcept {
    std::shared_ptr<model> m;
    const bool             ok = guarded(
        [&] {
            m = need(state);
            m->set_last_error("");
            body(*m);
        },
        [&](const char * what) {
            if (m) {
                m->set_last_error(what);
            }
            binding::log_error(std::string(name) + ": " + what);
        });
    return ok ? 0 : 1;
}

// The same for calls that use the model: one at a time.
template <typename Body> int call(const char * name, void * state, Body && body) noexcept {
    return attempt(name, state, [&](model & m) {
        const binding::turn turn(m);
        body(m);
    });
}

// Copies text with a terminator into size bytes; what does not fit is cut off between two characters of UTF-8.
void copy_text(const std::string & text, char * buf, size_t size) {
    if (size == 0) {
        return;
    }
    size_t n = std::min(text.size(), size - 1);
    if (n < text.size()) {
        while (n > 0 && ((unsigned char) text[n] & 0xC0) == 0x80) {
            n--;
        }
    }
    std::memcpy(buf, text.data(), n);
    buf[n] = '\0';
}

size_t buffer_size(const request & r) {
    return (size_t) std::max(0, r.tokens);
}

binding::piece_callback go_callback(void * state) {
    return [state](const std::string & piece) { return tokenCallback(state, const_cast<char *>(piece.c_str())) != 0; };
}

void print(const char * name, const binding::statistics & s) {
    std::fprintf(stderr, "%s: prompt %zu tokens, %zu of them cached, %.1f ms; generated %zu tokens, %.1f ms", name,
                 s.prompt, s.reused, s.prompt_ms, s.generated, s.generate_ms);
    if (s.drafted > 0) {
        std::fprintf(stderr, "; %zu of %zu guesses right", s.accepted, s.drafted);
    }
    std::fputc('\n', stderr);
}

void copy_embedding(const std::vector<float> & row, float * out, size_t size) {
    if (row.size() > size) {
        throw error(string_format("the embedding has %zu numbers, the buffer %zu: use SetTokens", row.size(), size));
    }
    std::copy(row.begin(), row.end(), out);
}

const char * or_empty(const char * s) {
    return s ? s : "";
}

} // namespace

extern "C" {

const char llama_binding_inputs[] = BINDING_INPUTS;

void * load_model(const char * fname, int n_ctx, int n_seed, bool memory_f16, bool mlock, bool /*embeddings*/,
                  bool mmap, bool low_vram, int n_gpu, int n_batch, const char * maingpu, const char * tensorsplit,
                  bool numa, float rope_freq_base, float rope_freq_scale, bool /*mul_mat_q*/, const char * lora,
                  const char * /*lora_base*/, bool /*perplexity*/) {
    void * state = nullptr;
    guarded(
        [&] {
            binding::load_options o;
            o.path         = or_empty(fname);
            o.main_gpu     = or_empty(maingpu);
            o.tensor_split = or_empty(tensorsplit);
            o.lora         = or_empty(lora);
            o.n_ctx        = n_ctx;
            o.n_batch      = n_batch;
            o.n_gpu_layers = n_gpu;
            o.seed         = n_seed;
            o.f16_cache    = memory_f16;
            o.mlock        = mlock;
            o.mmap         = mmap;
            o.low_vram     = low_vram;
            o.numa         = numa;
            o.rope_base    = rope_freq_base == 10000.0f ? 0.0f : rope_freq_base;
            o.rope_scale   = rope_freq_scale == 1.0f ? 0.0f : rope_freq_scale;
            state          = states().add(std::make_shared<model>(std::move(o)));
        },
        [](const char * what) {
            states().set_load_error(what);
            binding::log_error(std::string("load_model: ") + what);
        });
    return state;
}

void llama_binding_free_model(void * state) {
    guarded([&] { states().remove(state); }, [](const char * what) { binding::log_error(what); });
}

void * llama_allocate_params(const char * prompt, int seed, int threads, int tokens, int top_k, float top_p, float temp,
                             float repeat_penalty, int repeat_last_n, bool ignore_eos, bool /*memory_f16*/, int n_batch,
                             int n_keep, const char ** antiprompt, int antiprompt_count, float tfs_z, float typical_p,
                             float frequency_penalty, float presence_penalty, int mirostat, float mirostat_eta,
                             float mirostat_tau, bool penalize_nl, const char * logit_bias, const char * session_file,
                             bool prompt_cache_all, bool /*mlock*/, bool /*mmap*/, const char * /*maingpu*/,
                             const char * /*tensorsplit*/, bool prompt_cache_ro, const char * grammar,
                             float /*rope_freq_base*/, float /*rope_freq_scale*/, float       negative_prompt_scale,
                             const char * negative_prompt, int n_draft) {
    std::unique_ptr<request> r;
    const bool               ok = guarded(
        [&] {
            r                    = std::make_unique<request>();
            r->prompt            = or_empty(prompt);
            r->negative_prompt   = or_empty(negative_prompt);
            r->grammar           = or_empty(grammar);
            r->logit_bias        = or_empty(logit_bias);
            r->cache_path        = or_empty(session_file);
            r->seed              = seed;
            r->tokens            = tokens;
            r->threads           = threads;
            r->batch             = n_batch;
            r->keep              = n_keep;
            r->draft             = n_draft;
            r->top_k             = top_k;
            r->penalty_last_n    = repeat_last_n;
            r->mirostat          = mirostat;
            r->top_p             = top_p;
            r->typical_p         = typical_p;
            r->tail_free_z       = tfs_z;
            r->temperature       = temp;
            r->repeat_penalty    = repeat_penalty;
            r->frequency_penalty = frequency_penalty;
            r->presence_penalty  = presence_penalty;
            r->mirostat_eta      = mirostat_eta;
            r->mirostat_tau      = mirostat_tau;
            r->negative_scale    = negative_prompt_scale;
            r->ignore_eos        = ignore_eos;
            r->penalize_newline  = penalize_nl;
            r->cache_all         = prompt_cache_all;
            r->cache_read_only   = prompt_cache_ro;
            for (int i = 0; i < antiprompt_count; i++) {
                if (antiprompt[i] && *antiprompt[i]) {
                    r->stops.emplace_back(antiprompt[i]);
                }
            }
        },
        [](const char * what) { binding::log_error(std::string("llama_allocate_params: ") + what); });
    return ok ? r.release() : nullptr;
}

void llama_free_params(void * params) {
    delete static_cast<request *>(params);
}

int llama_predict(void * params, void * state, char * result, bool debug) {
    return call("llama_predict", state, [&](model & m) {
        const request &     r = need_request(params);
        binding::statistics stats;
        copy_text(binding::predict(m, r, go_callback(state), stats), result, buffer_size(r));
        if (debug) {
            print("llama_predict", stats);
        }
    });
}

int speculative_sampling(void * params, void * target, void * draft, char * result, bool debug) {
    return attempt("speculative_sampling", target, [&](model & mt) {
        const std::shared_ptr<model> md = need(draft);
        if (md.get() == &mt) {
            throw error("target and draft must be loaded separately");
        }
        // always in the same order, so that two calls with swapped roles cannot wait for each other
        const auto          both = std::minmax({ &mt, md.get() }, std::less<model *>());
        const binding::turn first(*both.first);
        const binding::turn second(*both.second);

        const request &     r = need_request(params);
        binding::statistics stats;
        copy_text(binding::speculate(mt, *md, r, go_callback(target), stats), result, buffer_size(r));
        if (debug) {
            print("speculative_sampling", stats);
        }
    });
}

int eval(void * params, void * state, char * text) {
    return call("eval", state, [&](model & m) {
        request r = need_request(params);
        r.prompt  = or_empty(text);
        binding::evaluate(m, r);
    });
}

int llama_tokenize_string(void * params, void * state, int * result) {
    int n = -INT_MAX;
    call("llama_tokenize_string", state, [&](model & m) {
        const request &                r      = need_request(params);
        const std::vector<llama_token> tokens = m.tokenize(r.prompt);
        if (tokens.size() > buffer_size(r)) {
            n = -(int) tokens.size();
            return;
        }
        std::copy(tokens.begin(), tokens.end(), result);
        n = (int) tokens.size();
    });
    return n;
}

int get_embeddings(void * params, void * state, float * res_embeddings) {
    return call("get_embeddings", state, [&](model & m) {
        const request & r = need_request(params);
        copy_embedding(m.embed(m.tokenize(r.prompt), r.threads), res_embeddings, buffer_size(r));
    });
}

int get_token_embeddings(void * params, void * state, int * tokens, int tokenSize, float * res_embeddings) {
    // llama.go sends the 0 but allocates this many floats
    const size_t unlimited = 9999999;
    return call("get_token_embeddings", state, [&](model & m) {
        const request & r = need_request(params);
        copy_embedding(m.embed(std::vector<llama_token>(tokens, tokens + std::max(0, tokenSize)), r.threads),
                       res_embeddings, r.tokens == 0 ? unlimited : buffer_size(r));
    });
}

void save_state(void * state, char * dst, char * /*modes*/) {
    call("save_state", state, [&](model & m) {
        const std::string path = or_empty(dst);
        if (!m.context()) {
            std::remove(path.c_str()); // llama.go takes a file for success
            throw error("nothing has been evaluated that could be saved");
        }
        m.cache().save(path);
    });
}

int load_state(void * state, char * statefile, char * /*modes*/) {
    return call("load_state", state, [&](model & m) {
        m.begin(0, 0, true).load(or_empty(statefile));
        m.keep();
    });
}

void * llama_binding_model(void * state) {
    const std::shared_ptr<model> m = states().find(state);
    return m ? m->get() : nullptr;
}

void * llama_binding_context(void * state) {
    const std::shared_ptr<model> m = states().find(state);
    return m ? m->context() : nullptr;
}

int llama_binding_embedding_size(void * state) {
    const std::shared_ptr<model> m = states().find(state);
    return m ? llama_model_n_embd_out(m->get()) : 0;
}

size_t llama_binding_error(void * state, char * buf, size_t size) {
    size_t n = 0;
    guarded(
        [&] {
            const std::string text = state ? need(state)->last_error() : states().load_error();
            copy_text(text, buf, size);
            n = text.size();
        },
        [&](const char * what) {
            copy_text(what, buf, size);
            n = std::strlen(what);
        });
    return n;
}

void llama_binding_log(int level) {
    binding::log_to_go(level);
}

} // extern "C"
