// A loaded model, its context and the tokens in the context's cache.

#pragma once

#include "common.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace binding {

// Every failure of the binding; what() is one sentence.
struct error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

class log_capture;

// The error of a function that only said that it failed, with the reason from the log if there is one.
error failure(const std::string & what, const log_capture & log);

struct load_options {
    std::string path;
    std::string main_gpu;     // index of a device, empty: 0
    std::string tensor_split; // shares of the devices, separated by comma or slash; empty: equal
    std::string lora;         // path of an adapter, empty: none
    int         n_ctx;        // 0: what the model was trained for
    int         n_batch;
    int         n_gpu_layers;
    int         seed; // of calls that bring none; 0: a random one
    bool        f16_cache;
    bool        mlock;
    bool        mmap;
    bool        low_vram;
    bool        numa;
    float       rope_base;  // 0: the model's
    float       rope_scale; // 0: the model's
};

// The tokens of sequence 0 in a context's cache, in order; a token's position is its index.
class sequence {
public:
    explicit sequence(llama_context * ctx) : ctx(ctx) {}

    llama_context * context() const { return ctx; }

    const std::vector<llama_token> & tokens() const { return held; }

    size_t size() const { return held.size(); }

    // Tokens that the cache still takes.
    size_t room() const;

    // Most tokens to evaluate at once; 0 or more than the context allows: as many as that.
    void set_batch(int n) { batch = n; }

    // Evaluates n tokens behind those that are there. Afterwards llama_get_logits_ith(-1) belongs to the last one; with
    // outputs of all, llama_get_logits_ith(i) to tokens[i], and n must fit one batch. Empty after a failure.
    void append(const llama_token * tokens, size_t n, bool all = false);

    void append(const std::vector<llama_token> & tokens, bool all = false) {
        append(tokens.data(), tokens.size(), all);
    }

    // Keeps the first n tokens. False when this kind of memory cannot forget a part: then it is empty.
    bool truncate(size_t n);

    // Keeps what the sequence and prompt share from the start, except the prompt's last token, whose output is needed.
    // Returns the number of tokens kept.
    size_t reuse(const std::vector<llama_token> & prompt);

    // Drops half of what lies behind the first keep tokens and moves the rest down. False when the memory cannot.
    bool shift(size_t keep);

    // The tokens and their cache rows as a file. save changes no file when it fails; load empties the sequence first
    // and refuses files that are damaged or of another model.
    void save(const std::string & path) const;
    void load(const std::string & path);

private:
    llama_context *          ctx;
    std::vector<llama_token> held;
    int                      batch = 0;
};

// Calls on a model are made by one thread at a time, which holds a turn.
class model {
public:
    explicit model(load_options options);

    llama_model * get() const { return weights.get(); }

    const llama_vocab * vocab() const { return llama_model_get_vocab(weights.get()); }

    // NULL before the first evaluation.
    llama_context * context() const { return context_ptr; }

    // A further context with the same parameters.
    llama_context_ptr new_context() const;

    // The cache for a new evaluation: empty unless Eval or LoadState asked to go on from what they left. Throws when
    // the model keeps no cache and text is wanted.
    sequence & begin(int threads, int batch, bool text);

    // What is in the cache now; there must be a context.
    const sequence & cache() const { return *seq; }

    // Lets the next begin find the tokens that are in the cache now.
    void keep() { resume = true; }

    // Text to tokens as a prompt: special tokens are recognised, the model's BOS is added, no EOS.
    std::vector<llama_token> tokenize(const std::string & text) const;

    // The embedding of tokens, llama_model_n_embd_out floats.
    std::vector<float> embed(const std::vector<llama_token> & tokens, int threads);

    const load_options options;

private:
    llama_context_params context_params() const;

    llama_model_ptr              weights;
    llama_adapter_lora *         lora = nullptr; // owned by weights
    llama_context_ptr            owned;
    std::atomic<llama_context *> context_ptr{ nullptr };
    std::unique_ptr<sequence>    seq;
    bool                         resume = false;

    friend class turn;
    std::mutex                   turn_mutex;
    std::atomic<std::thread::id> turn_of{};
};

// The right to use a model, waited for. A token callback that calls its own model would wait for itself: that throws.
class turn {
public:
    explicit turn(model & m);
    ~turn();
    turn(const turn &)             = delete;
    turn & operator=(const turn &) = delete;

private:
    model & m;
};

} // namespace binding
