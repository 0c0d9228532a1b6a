// The C side of go-llama.cpp, against the llama.cpp that this project pins.
//
// A model is named by a key that binding_load gives out; it is refused after binding_free, and no key is given out
// twice. Calls on one model wait for each other, calls on different models do not.
//
// Functions that return int return 0, or 1 when they failed: then err holds the reason, one terminated sentence of at
// most err_size - 1 bytes. No exception leaves these functions and none of them ends the process. All that is pointed to
// is read during the call only.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// size bytes of text, which need not be terminated; data may be NULL when size is 0.
struct binding_text {
    const char * data;
    size_t       size;
};

// Numbers of zero, and empty texts, mean what the model file or llama.cpp says.
struct binding_load_params {
    struct binding_text path;
    struct binding_text main_gpu;     // index of a device
    struct binding_text tensor_split; // shares of the devices, separated by comma or slash
    struct binding_text lora;         // path of an adapter

    int32_t n_ctx;
    int32_t n_batch;
    int32_t n_gpu_layers;
    int32_t seed; // of calls that bring none; 0: a random one
    float   rope_freq_base;
    float   rope_freq_scale;
    bool    f16_cache; // otherwise f32
    bool    mlock;
    bool    mmap;
    bool    low_vram; // the cache stays off the GPU
    bool    numa;
};

// What a call evaluates and how it samples; the fields that a function reads are named there.
struct binding_request {
    struct binding_text         prompt;
    struct binding_text         negative_prompt;
    struct binding_text         grammar;    // GBNF
    struct binding_text         logit_bias; // "token+bias" or "token-bias", several separated by commas
    struct binding_text         cache_path; // file of the prompt cache
    const struct binding_text * stops;      // [n_stops] words that end the text, which are not in it
    size_t                      n_stops;

    uintptr_t callback; // what bindingPiece gets; 0: it is not called
    int64_t   seed;     // negative: the model's

    int32_t n_predict; // most tokens to generate
    int32_t n_threads; // 0: as many as the CPU has cores for it; never more than there are CPUs
    int32_t n_batch;   // most tokens to evaluate at once; 0: the model's
    int32_t n_keep;    // tokens of the prompt that survive when the context is full; negative: all
    int32_t n_draft;   // tokens that the draft model guesses at once; 0: 8
    int32_t top_k;
    int32_t penalty_last_n; // negative: the whole context
    int32_t mirostat;       // 0, 1 or 2

    float top_p;
    float typical_p;
    float tail_free_z; // llama.cpp has it no longer: 1
    float temperature; // 0 or less: greedy
    float repeat_penalty;
    float frequency_penalty;
    float presence_penalty;
    float mirostat_eta;
    float mirostat_tau;
    float negative_scale; // 1 or less: the negative prompt is not used

    bool ignore_eos;
    bool penalize_newline;
    bool cache_all;       // the prompt cache gets the answer too
    bool cache_read_only; // the prompt cache is not written
    bool debug;           // counts and times go to standard error
};

// Exported by callback.go: hands size bytes of generated text on, which may end within a character; 0 stops the
// generation and leaves that piece out of the result.
extern int bindingPiece(uintptr_t callback, char * piece, size_t size);

// Exported by log.go: one line or part of a line of llama.cpp's log; level is a ggml_log_level.
extern void bindingLog(int level, char * text);

// Loads a model and returns its key, 0 when that failed. The context is made by the first call that evaluates.
uint64_t binding_load(const struct binding_load_params * params, char * err, size_t err_size);

// Ends the key. The memory goes when the last call that is still running on the model returns.
void binding_free(uint64_t model);

// The llama_model, and its llama_context or NULL before the first evaluation. Valid until binding_free. NULL for a key
// that has ended.
void * binding_model(uint64_t model);
void * binding_context(uint64_t model);

// Floats of one embedding; 0 for a key that has ended.
int32_t binding_embedding_size(uint64_t model);

// A generated text, to be given back to binding_output_free.
struct binding_output {
    char * text;
    size_t size; // bytes; text is not terminated
};

void binding_output_free(struct binding_output * out);

// Continues the prompt by at most n_predict tokens. out receives the generated text without the prompt, up to a stop
// word. Reads all of the request but n_draft.
int binding_predict(uint64_t model, const struct binding_request * request, struct binding_output * out, char * err,
                    size_t err_size);

// The same text as binding_predict with the target gives when it samples greedily, with a smaller model of the same
// vocabulary guessing ahead. Reads all of the request but the negative prompt and the prompt cache.
int binding_speculate(uint64_t target, uint64_t draft, const struct binding_request * request,
                      struct binding_output * out, char * err, size_t err_size);

// Evaluates the prompt into the emptied cache. The next binding_predict evaluates only what its prompt has beyond it.
// Reads prompt, n_threads and n_batch.
int binding_eval(uint64_t model, const struct binding_request * request, char * err, size_t err_size);

// Sets *n to the number of tokens of text, special tokens recognised and the model's first token added. tokens receives
// them if size, the tokens it has room for, is at least that.
int binding_tokenize(uint64_t model, struct binding_text text, int32_t * tokens, size_t size, size_t * n, char * err,
                     size_t err_size);

// Writes the embedding of a text, or of exactly these tokens: binding_embedding_size floats, not normalised; for models
// that name no pooling it is the last token's output. Fails when size, the floats that out has room for, is another
// number.
int binding_embed_text(uint64_t model, struct binding_text text, int32_t n_threads, float * out, size_t size,
                       char * err, size_t err_size);
int binding_embed_tokens(uint64_t model, const int32_t * tokens, size_t n_tokens, int32_t n_threads, float * out,
                         size_t size, char * err, size_t err_size);

// Writes the evaluated tokens and their cache rows to a file, whole or not at all.
int binding_save_state(uint64_t model, struct binding_text path, char * err, size_t err_size);

// Reads them back. The next binding_predict evaluates only what its prompt has beyond them.
int binding_load_state(uint64_t model, struct binding_text path, char * err, size_t err_size);

// Sends llama.cpp's log of this level and above to bindingLog. 0 restores the default: errors go to the log callback
// that was set before this library's, which is standard error if nobody set one, and everything else is dropped.
void binding_log(int level);

// SHA-256 of the archive and the headers that supply.sh found. It makes Go link again when they change.
extern const char binding_inputs[];

#ifdef __cplusplus
}
#endif
