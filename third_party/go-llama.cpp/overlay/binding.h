// The C side of go-llama.cpp, against the llama.cpp that this project pins.
//
// A state is a key that load_model gives out. It names a model until llama_binding_free_model and is refused after
// that; no key is given out twice. Calls on one state wait for each other, calls on different states do not. params
// come from llama_allocate_params and are read by one call at a time.
//
// A function that returns int returns 0, or 1 when it failed and llama_binding_error has the reason; where more is
// possible it is said below. No exception leaves these functions and none of them ends the process.

#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// Exported by llama.go: hands a generated piece of text to the callback of this state; 0 stops the generation.
extern unsigned char tokenCallback(void *, char *);

// Exported by handle.go: one line or part of a line of llama.cpp's log; level is a ggml_log_level.
extern void bindingLog(int level, char * text);

// Loads the model; a context is made by the first call that evaluates. Returns a state, or NULL. Numbers of zero, and
// RoPE's 10000 and 1, which are what llama.go sends when nobody asked, mean what the model file says.
void * load_model(const char * fname, int n_ctx, int n_seed, bool memory_f16, bool mlock, bool embeddings, bool mmap,
                  bool low_vram, int n_gpu, int n_batch, const char * maingpu, const char * tensorsplit, bool numa,
                  float rope_freq_base, float rope_freq_scale, bool mul_mat_q, const char * lora,
                  const char * lora_base, bool perplexity);

// Ends the state. The memory goes when the last call that is still running on it returns.
void llama_binding_free_model(void * state);

// Copies every argument. tokens is also the size of the buffer that the call writes to: bytes of text for
// llama_predict and speculative_sampling, tokens for llama_tokenize_string, floats for the embeddings. Returns NULL
// when out of memory, which the calls then report.
void * llama_allocate_params(const char * prompt, int seed, int threads, int tokens, int top_k, float top_p, float temp,
                             float repeat_penalty, int repeat_last_n, bool ignore_eos, bool memory_f16, int n_batch,
                             int n_keep, const char ** antiprompt, int antiprompt_count, float tfs_z, float typical_p,
                             float frequency_penalty, float presence_penalty, int mirostat, float mirostat_eta,
                             float mirostat_tau, bool penalize_nl, const char * logit_bias, const char * session_file,
                             bool prompt_cache_all, bool mlock, bool mmap, const char * maingpu,
                             const char * tensorsplit, bool prompt_cache_ro, const char * grammar, float rope_freq_base,
                             float rope_freq_scale, float negative_prompt_scale, const char * negative_prompt,
                             int n_draft);

void llama_free_params(void * params);

// Continues the prompt by at most tokens tokens. result receives the generated text without the prompt, cut at a stop
// word, cut to tokens - 1 bytes between two characters, and terminated.
int llama_predict(void * params, void * state, char * result, bool debug);

// The same text as llama_predict with the target would give when sampling greedily, with a smaller model of the same
// vocabulary guessing ahead.
int speculative_sampling(void * params, void * target, void * draft, char * result, bool debug);

// Evaluates text into the emptied cache. The next llama_predict evaluates only what its prompt has beyond it.
int eval(void * params, void * state, char * text);

// The number of tokens of the prompt, of which result has all; or minus that number when tokens is too small, or
// minus INT_MAX for another failure.
int llama_tokenize_string(void * params, void * state, int * result);

// Writes the model's embedding of the prompt: llama_binding_embedding_size floats, not normalised; for models that
// name no pooling it is the last token's output. Fails when tokens is smaller.
int get_embeddings(void * params, void * state, float * res_embeddings);

// The same for token ids, exactly these. tokens of 0 stands for the buffer that llama.go allocates then.
int get_token_embeddings(void * params, void * state, int * tokens, int tokenSize, float * res_embeddings);

// Writes the evaluated tokens and their cache rows. After a failure there is no file dst.
void save_state(void * state, char * dst, char * modes);

// Reads them back. The next llama_predict evaluates only what its prompt has beyond them.
int load_state(void * state, char * statefile, char * modes);

// The llama_model of a state, and its llama_context or NULL before the first evaluation. Valid until
// llama_binding_free_model. NULL for a state that has ended.
void * llama_binding_model(void * state);
void * llama_binding_context(void * state);

// Floats of one embedding; 0 for a state that has ended.
int llama_binding_embedding_size(void * state);

// Copies the reason of the last failed call on this state, or of the last failed load_model when state is NULL, as
// one terminated sentence of at most size - 1 bytes. Returns its whole length, 0 when nothing has failed.
size_t llama_binding_error(void * state, char * buf, size_t size);

// Sends llama.cpp's log of this level and above to bindingLog. 0 restores the default: errors go to the log callback
// that was set before this library's, which is standard error if nobody set one, and everything else is dropped.
void llama_binding_log(int level);

// SHA-256 of the archive and the headers that supply.sh found. It makes Go link again when they change.
extern const char llama_binding_inputs[];

#ifdef __cplusplus
}
#endif
