#include "binding.h"

#include "binding_inputs.h"
#include "binding_log.h"
#include "binding_predict.h"

#include <algorithm>
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

// The models that keys name. Never destroyed: calls may still run while the process ends.
class registry {
public:
    uint64_t add(std::shared_ptr<model> m) {
        const std::lock_guard<std::mutex> lock(mutex);
        models.emplace(++last, std::move(m));
        return last;
    }

    std::shared_ptr<model> find(uint64_t key) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto                        it = models.find(key);
        return it == models.end() ? nullptr : it->second;
    }

    // The model is destroyed by whoever drops what this returns, outside the lock.
    std::shared_ptr<model> remove(uint64_t key) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto                        it = models.find(key);
        if (it == models.end()) {
            return nullptr;
        }
        std::shared_ptr<model> m = std::move(it->second);
        models.erase(it);
        return m;
    }

private:
    std::mutex                                           mutex;
    std::unordered_map<uint64_t, std::shared_ptr<model>> models;
    uint64_t                                             last = 0;
};

registry & keys() {
    static auto * r = new registry;
    return *r;
}

std::shared_ptr<model> need(uint64_t key) {
    std::shared_ptr<model> m = keys().find(key);
    if (!m) {
        throw error("the model has been freed");
    }
    return m;
}

// Copies text with a terminator into size bytes; what does not fit is cut off between two characters of UTF-8.
void copy_text(const char * text, char * buf, size_t size) {
    if (size == 0) {
        return;
    }
    const size_t whole = std::strlen(text);
    size_t       n     = std::min(whole, size - 1);
    if (n < whole) {
        while (n > 0 && ((unsigned char) text[n] & 0xC0) == 0x80) {
            n--;
        }
    }
    std::memcpy(buf, text, n);
    buf[n] = '\0';
}

// Runs body; what it throws becomes the reason. Returns 0 or 1.
template <typename Body> int run(char * err, size_t err_size, Body && body) noexcept {
    try {
        body();
        return 0;
    } catch (const std::exception & e) {
        copy_text(e.what(), err, err_size);
    } catch (...) {
        copy_text("an exception of unknown type", err, err_size);
    }
    return 1;
}

// The same for calls that use a model: one at a time.
template <typename Body> int call(uint64_t key, char * err, size_t err_size, Body && body) noexcept {
    return run(err, err_size, [&] {
        const std::shared_ptr<model> m = need(key);
        const binding::turn          turn(*m);
        body(*m);
    });
}

std::string to_string(const binding_text & text) {
    return text.size > 0 ? std::string(text.data, text.size) : std::string();
}

std::string to_path(const binding_text & text) {
    std::string path = to_string(text);
    if (path.find('\0') != std::string::npos) {
        throw error("a file name holds a zero byte");
    }
    return path;
}

request to_request(const binding_request & in) {
    request r;
    r.prompt            = to_string(in.prompt);
    r.negative_prompt   = to_string(in.negative_prompt);
    r.grammar           = to_string(in.grammar);
    r.logit_bias        = to_string(in.logit_bias);
    r.cache_path        = to_path(in.cache_path);
    r.seed              = in.seed;
    r.tokens            = in.n_predict;
    r.threads           = in.n_threads;
    r.batch             = in.n_batch;
    r.keep              = in.n_keep;
    r.draft             = in.n_draft;
    r.top_k             = in.top_k;
    r.penalty_last_n    = in.penalty_last_n;
    r.mirostat          = in.mirostat;
    r.top_p             = in.top_p;
    r.typical_p         = in.typical_p;
    r.tail_free_z       = in.tail_free_z;
    r.temperature       = in.temperature;
    r.repeat_penalty    = in.repeat_penalty;
    r.frequency_penalty = in.frequency_penalty;
    r.presence_penalty  = in.presence_penalty;
    r.mirostat_eta      = in.mirostat_eta;
    r.mirostat_tau      = in.mirostat_tau;
    r.negative_scale    = in.negative_scale;
    r.ignore_eos        = in.ignore_eos;
    r.penalize_newline  = in.penalize_newline;
    r.cache_all         = in.cache_all;
    r.cache_read_only   = in.cache_read_only;
    for (size_t i = 0; i < in.n_stops; i++) {
        if (in.stops[i].size > 0) {
            r.stops.push_back(to_string(in.stops[i]));
        }
    }
    return r;
}

binding::piece_callback go_callback(uintptr_t callback) {
    if (callback == 0) {
        return [](const std::string &) { return true; };
    }
    return [callback](const std::string & piece) {
        return bindingPiece(callback, const_cast<char *>(piece.data()), piece.size()) != 0;
    };
}

void give_out(const std::string & text, binding_output & out) {
    out = {};
    if (text.empty()) {
        return;
    }
    out.text = static_cast<char *>(std::malloc(text.size()));
    if (!out.text) {
        throw std::bad_alloc();
    }
    std::memcpy(out.text, text.data(), text.size());
    out.size = text.size();
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
    if (row.size() != size) {
        throw error(string_format("the embedding has %zu numbers, the buffer %zu", row.size(), size));
    }
    std::copy(row.begin(), row.end(), out);
}

} // namespace

extern "C" {

const char binding_inputs[] = BINDING_INPUTS;

uint64_t binding_load(const binding_load_params * params, char * err, size_t err_size) {
    uint64_t key = 0;
    run(err, err_size, [&] {
        binding::load_options o;
        o.path         = to_path(params->path);
        o.main_gpu     = to_string(params->main_gpu);
        o.tensor_split = to_string(params->tensor_split);
        o.lora         = to_path(params->lora);
        o.n_ctx        = params->n_ctx;
        o.n_batch      = params->n_batch;
        o.n_gpu_layers = params->n_gpu_layers;
        o.seed         = params->seed;
        o.f16_cache    = params->f16_cache;
        o.mlock        = params->mlock;
        o.mmap         = params->mmap;
        o.low_vram     = params->low_vram;
        o.numa         = params->numa;
        o.rope_base    = params->rope_freq_base;
        o.rope_scale   = params->rope_freq_scale;
        key            = keys().add(std::make_shared<model>(std::move(o)));
    });
    return key;
}

void binding_free(uint64_t key) {
    keys().remove(key);
}

void * binding_model(uint64_t key) {
    const auto m = keys().find(key);
    return m ? m->get() : nullptr;
}

void * binding_context(uint64_t key) {
    const auto m = keys().find(key);
    return m ? m->context() : nullptr;
}

int32_t binding_embedding_size(uint64_t key) {
    const auto m = keys().find(key);
    return m ? llama_model_n_embd_out(m->get()) : 0;
}

void binding_output_free(binding_output * out) {
    std::free(out->text);
    *out = {};
}

int binding_predict(uint64_t key, const binding_request * request, binding_output * out, char * err, size_t err_size) {
    return call(key, err, err_size, [&](model & m) {
        binding::statistics stats;
        give_out(binding::predict(m, to_request(*request), go_callback(request->callback), stats), *out);
        if (request->debug) {
            print("Predict", stats);
        }
    });
}

int binding_speculate(uint64_t target, uint64_t draft, const binding_request * request, binding_output * out,
                      char * err, size_t err_size) {
    return run(err, err_size, [&] {
        const std::shared_ptr<model> mt = need(target);
        const std::shared_ptr<model> md = need(draft);
        if (md == mt) {
            throw error("target and draft must be loaded separately");
        }
        // always in the same order, so that two calls with swapped roles cannot wait for each other
        const auto          both = std::minmax({ mt.get(), md.get() }, std::less<model *>());
        const binding::turn first(*both.first);
        const binding::turn second(*both.second);

        binding::statistics stats;
        give_out(binding::speculate(*mt, *md, to_request(*request), go_callback(request->callback), stats), *out);
        if (request->debug) {
            print("SpeculativeSampling", stats);
        }
    });
}

int binding_eval(uint64_t key, const binding_request * request, char * err, size_t err_size) {
    return call(key, err, err_size, [&](model & m) { binding::evaluate(m, to_request(*request)); });
}

int binding_tokenize(uint64_t key, binding_text text, int32_t * tokens, size_t size, size_t * n, char * err,
                     size_t err_size) {
    return run(err, err_size, [&] {
        // no turn: a vocabulary does not change
        const std::vector<llama_token> found = need(key)->tokenize(to_string(text));
        if (found.size() <= size) {
            std::copy(found.begin(), found.end(), tokens);
        }
        *n = found.size();
    });
}

int binding_embed_text(uint64_t key, binding_text text, int32_t n_threads, float * out, size_t size, char * err,
                       size_t err_size) {
    return call(key, err, err_size,
                [&](model & m) { copy_embedding(m.embed(m.tokenize(to_string(text)), n_threads), out, size); });
}

int binding_embed_tokens(uint64_t key, const int32_t * tokens, size_t n_tokens, int32_t n_threads, float * out,
                         size_t size, char * err, size_t err_size) {
    return call(key, err, err_size, [&](model & m) {
        copy_embedding(m.embed(std::vector<llama_token>(tokens, tokens + n_tokens), n_threads), out, size);
    });
}

int binding_save_state(uint64_t key, binding_text path, char * err, size_t err_size) {
    return call(key, err, err_size, [&](model & m) {
        const std::string file = to_path(path);
        if (!m.context()) {
            throw error("nothing has been evaluated that could be saved");
        }
        m.cache().save(file);
    });
}

int binding_load_state(uint64_t key, binding_text path, char * err, size_t err_size) {
    return call(key, err, err_size, [&](model & m) {
        m.begin(0, 0, true).load(to_path(path));
        m.keep();
    });
}

void binding_log(int level) {
    binding::log_to_go(level);
}

} // extern "C"
