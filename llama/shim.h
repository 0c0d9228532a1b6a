// What the Go package needs from libcommon (chat templates, sampling) and from llama.cpp's C++ side, as plain C.
//
// Strings that a function returns in a buffer are not terminated; the return value is their length in bytes, or the
// length that would be needed when it is larger than the buffer. Negative values are errors; where an error buffer is
// given it holds one terminated sentence.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama-fed.h"
#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

// Keeps llama.cpp's log quiet and remembers its last error line of each thread. Idempotent.
void shim_log_init(void);

// Starts llama.cpp, with ggml's backends from a folder where they are libraries of their own. Returns the number of
// devices that can evaluate; 0: there is no backend for this machine. Idempotent.
size_t shim_backends_load(const char * dir);

// Copies and forgets the calling thread's last error line, at most size - 1 bytes, terminated. Returns its length.
size_t shim_log_take(char * buf, size_t size);

// Bytes that malloc has handed out and not got back, over all threads; 0: this C library does not say.
size_t shim_allocated(void);

// The upstream commit that the library was built from; "unknown" for a source that does not say.
const char * shim_commit(void);

// A model's chat template, compiled once.
struct shim_template;

struct shim_template * shim_template_new(const struct llama_model * model, char * err, size_t err_size);
void                   shim_template_free(struct shim_template * t);

// Renders n messages (roles and contents, UTF-8, terminated) into buf, with the header of the assistant's turn when
// generate is set.
int64_t shim_template_apply(const struct shim_template * t, const char * const * roles, const char * const * contents,
                            size_t n, bool generate, char * buf, size_t buf_size, char * err, size_t err_size);

struct shim_sampling {
    uint32_t     seed;
    float        temperature; // <= 0: greedy
    int32_t      top_k;
    float        top_p;
    float        min_p;
    int32_t      repeat_last_n;
    float        repeat_penalty;
    float        frequency_penalty;
    float        presence_penalty;
    const char * grammar; // GBNF, NULL for none
};

// Writes the GBNF grammar of what a JSON schema (terminated) allows into buf.
int64_t shim_schema_grammar(const char * schema, char * buf, size_t buf_size, char * err, size_t err_size);

struct shim_sampler;

struct shim_sampler * shim_sampler_new(const struct llama_model * model, const struct shim_sampling * params,
                                       char * err, size_t err_size);
void                  shim_sampler_free(struct shim_sampler * s);

// Chooses a token from output index of the last llama_decode and accepts it; -1 when something was thrown.
int32_t shim_sampler_next(struct shim_sampler * s, struct llama_context * ctx, int32_t index);

// A pool of threads for one context, attached to it. Contexts without one start threads anew for every graph.
struct shim_threads;

struct shim_threads * shim_threads_attach(struct llama_context * ctx, int32_t n_threads);
void                  shim_threads_free(struct shim_threads * t);

// Lets the next evaluations use n of the pool's threads.
void shim_threads_use(struct llama_context * ctx, int32_t n);

// A flag that stops a running llama_decode from another thread (CPU backends).
struct shim_abort;

struct shim_abort * shim_abort_new(void);
void                shim_abort_free(struct shim_abort * a);
void                shim_abort_set(struct shim_abort * a, bool on);

// Sets the flag as the abort callback of contexts made from params.
void shim_abort_install(struct shim_abort * a, struct llama_context_params * params);

// llama_decode of n tokens of sequence 0 at positions pos, pos + 1, …; logits are kept of the
// last outputs tokens.
int32_t shim_decode(struct llama_context * ctx, const int32_t * tokens, int32_t n, int32_t pos, int32_t outputs);

// Sets shim_hook (exported by Go) as the federated hook with the given handle as its user data.
int32_t shim_set_hook(struct llama_context * ctx, const uint8_t * layers, size_t n_layers, uintptr_t handle);

// The same with shimOutput and the outputs of all layers; on false removes it.
int32_t shim_set_output_hook(struct llama_context * ctx, bool on, uintptr_t handle);

// The same with shimQuery and the queries of all layers.
int32_t shim_set_query_hook(struct llama_context * ctx, bool on, uintptr_t handle);

// Sets shimHomeAsk and shimHomeMerge for the given layers; layers NULL removes them.
int32_t shim_set_home(struct llama_context * ctx, const uint8_t * layers, size_t n_layers, uintptr_t handle);

// A forward pass that tries continuations of one known text side by side, in an ordinary context of llama.cpp.
struct shim_trials;

// How many continuations are tried at a time, at most.
#define SHIM_TRIALS 255

// For known texts of n_known tokens and n_tokens in one evaluation; NULL when it cannot be made.
struct shim_trials * shim_trials_new(struct llama_model * model, uint32_t n_known, uint32_t n_tokens,
                                     int32_t n_threads);
void                 shim_trials_free(struct shim_trials * s);

// Forgets the known text from position keep on and goes on with n >= 1 tokens. logits: [vocabulary], of what follows.
int32_t shim_trials_know(struct shim_trials * s, int32_t keep, const int32_t * tokens, size_t n, float * logits);

// Evaluates tokens [n / length][length], each line after the known text, up to the last of layers ([n_layers]), and leaves
// K rows, then V rows, of each line's last token: for each of these layers [n / length][elements of K], then
// [n / length][elements of V]. n_rows is the length of rows and must be just that.
int32_t shim_trials_try(struct shim_trials * s, const int32_t * tokens, size_t n, size_t length, const uint8_t * layers,
                        size_t n_layers, float * rows, size_t n_rows);

#ifdef __cplusplus
}
#endif
