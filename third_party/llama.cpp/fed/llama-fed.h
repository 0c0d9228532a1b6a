// Federated attention for llama.cpp: per-layer access to KV rows in mid-forward.
//
// A federated context owns two KV caches. The local cache serves the local layers and holds the participant's own
// tokens only. The sync cache serves the sync layers and holds, besides, remote cells: rows of other participants'
// tokens at their positions. A hook runs at chosen layers after K and V of the micro-batch are stored and before
// attention reads them; there rows can be read, written or masked, and the graph can be stopped.
//
// A row is one token's K or V vector of one layer, all KV heads, in model order [kv head][head dim]. On the wire side
// of this API rows are in one of the types of enum llama_fed_type, quantised by the same scalar routines on every CPU.
// Positions name rows; cells never leave the library. A layer attends to a remote cell once its rows were written there.
//
// Functions that return int32_t return LLAMA_FED_OK or one of the negative codes below and change nothing when they
// fail. A context must be used from one thread at a time; the hook runs on the thread that called llama_decode, and
// only functions marked [hook] may be called in it.

#pragma once

#include "llama.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum llama_fed_status {
    LLAMA_FED_OK            = 0,
    LLAMA_FED_E_ARG         = -1,  // a null pointer, a count of zero, unsorted or repeated positions
    LLAMA_FED_E_CONTEXT     = -2,  // the context is not a federated one
    LLAMA_FED_E_LAYER       = -3,  // no such layer, or not a sync or local layer as it is needed
    LLAMA_FED_E_POSITION    = -4,  // a position has no cell, or has one already
    LLAMA_FED_E_SIZE        = -5,  // a buffer's length is not what rows and type imply
    LLAMA_FED_E_TYPE        = -6,  // not a wire type, or the row length is not a multiple of its block
    LLAMA_FED_E_FULL        = -7,  // not enough free cells in the sync cache
    LLAMA_FED_E_VALUE       = -8,  // a value is NaN, infinite or beyond f16
    LLAMA_FED_E_STATE       = -9,  // not allowed now: outside the hook, or before the model's RoPE was seen
    LLAMA_FED_E_UNSUPPORTED = -10, // the model's memory or positions cannot be federated; see llama_fed_init's reason
    LLAMA_FED_E_MEMORY      = -11, // allocation failed
};

// Types of rows on the wire: a format, and what was done to the rows before.
enum llama_fed_type {
    LLAMA_FED_TYPE_F16  = 1, // as the cache holds them
    LLAMA_FED_TYPE_Q8_0 = 2, // ggml's formats, blocks of 32
    LLAMA_FED_TYPE_Q5_1 = 3,
    LLAMA_FED_TYPE_Q4_1 = 4,
    LLAMA_FED_TYPE_Q4_0 = 5,
    LLAMA_FED_TYPE_NF3  = 6, // 3 bits: blocks of 32 codes of a normal distribution and an f16 scale, 14 bytes

    LLAMA_FED_TYPE_FORMAT = 0x0f, // the bits of the format

    // K is rotated back to position 0, and the mean of each channel over the rows of one call is subtracted. The mean
    // comes first, one f16 row.
    LLAMA_FED_TYPE_CENTRED = 0x10,

    // Each row is multiplied by the orthonormal Hadamard matrix, in blocks of the largest power of two up to 128 that
    // divides its length; not with f16.
    LLAMA_FED_TYPE_HADAMARD = 0x20,
};

// One English sentence per code, never NULL.
LLAMA_API const char * llama_fed_strerror(int32_t status);

// LLAMA_FED_OK when contexts of this model can be federated; otherwise LLAMA_FED_E_UNSUPPORTED, and reason
// (reason_size bytes, may be NULL) holds one sentence.
LLAMA_API int32_t llama_fed_check_model(const struct llama_model * model, char * reason, size_t reason_size);

// Elements of one K row and one V row of layer il: [kv heads * head dim], and its window: a token at position q attends
// to positions > q - n_window, or to all before it if n_window is 0. LLAMA_FED_E_LAYER when it has no rows.
LLAMA_API int32_t llama_fed_row_shape(const struct llama_model * model, int32_t il, uint32_t * n_k, uint32_t * n_v,
                                      uint32_t * n_window);

struct llama_fed_params {
    const uint8_t * sync_layers;   // [n_layers], non-zero: a sync layer
    size_t          n_layers;      // must equal llama_model_n_layer
    uint32_t        n_cells_local; // cells of every local layer: prefix + own + generated tokens
    uint32_t        n_cells_sync;  // cells of every sync layer: the same plus remote tokens
};

// Creates a context whose memory is a federated cache. cparams is used as given except for: flash attention on, one
// sequence, f16 cache, cb_eval taken by this library, n_ctx = n_cells_sync rounded up to what llama.cpp wants.
// On failure returns NULL, *status is a code, and reason (reason_size bytes, may be NULL) holds one sentence.
LLAMA_API struct llama_context * llama_fed_init(struct llama_model * model, struct llama_context_params cparams,
                                                const struct llama_fed_params * params, int32_t * status, char * reason,
                                                size_t reason_size);

// [hook] Bytes of n rows of n_embd elements in a wire type, the mean of a centred one included; 0 when the type is not
// one or n_embd is not a multiple of its block.
LLAMA_API size_t llama_fed_rows_size(int32_t type, uint32_t n_embd, size_t n);

// Reserves remote cells in the sync cache for positions pos[0..n) (strictly increasing, without a cell yet). No layer
// attends to them before their rows were written there. Without effect on local layers.
LLAMA_API int32_t llama_fed_reserve(struct llama_context * ctx, const llama_pos * pos, size_t n);

// Frees the cells of pos[0..n) in the sync cache and zeroes their rows at every sync layer.
LLAMA_API int32_t llama_fed_release(struct llama_context * ctx, const llama_pos * pos, size_t n);

// Own tokens that follow start at position pos: the positions before it belong to others or to nobody.
LLAMA_API int32_t llama_fed_set_next_pos(struct llama_context * ctx, llama_pos pos);

// [hook] Reads rows pos[0..n) of layer il (any layer). k_size and v_size must equal llama_fed_rows_size. Centred K needs
// a model whose rows can be rotated (llama_fed_can_shift).
LLAMA_API int32_t llama_fed_rows_get(struct llama_context * ctx, int32_t il, const llama_pos * pos, size_t n,
                                     int32_t type_k, void * k, size_t k_size, int32_t type_v, void * v, size_t v_size);

// [hook] Writes rows pos[0..n) of sync layer il, which attends to them from now on. K is rotated by shift positions first
// (0: as it is), or to pos if it is centred, by the RoPE that the model's own graph applies at that layer; to rotate, at
// least one llama_decode must have run.
LLAMA_API int32_t llama_fed_rows_set(struct llama_context * ctx, int32_t il, const llama_pos * pos, size_t n,
                                     int32_t shift, int32_t type_k, const void * k, size_t k_size, int32_t type_v,
                                     const void * v, size_t v_size);

// True when K rows of every layer can be moved to other positions by rotation (or need none). Valid after the first
// llama_decode; LLAMA_FED_E_STATE before it. Returns LLAMA_FED_OK or LLAMA_FED_E_UNSUPPORTED.
LLAMA_API int32_t llama_fed_can_shift(const struct llama_context * ctx);

// Called at layer il with the positions of the micro-batch, pos[0..n). Return 0 to go on, non-zero to stop the graph:
// rows stored so far stay, no output is computed.
typedef int32_t (*llama_fed_hook)(int32_t il, const llama_pos * pos, size_t n, void * user_data);

// Sets the hook for the layers with layers[il] != 0; hook NULL removes it.
LLAMA_API int32_t llama_fed_set_hook(struct llama_context * ctx, const uint8_t * layers, size_t n_layers,
                                     llama_fed_hook hook, void * user_data);

// [hook] Hides the cells pos[0..n) of the sync cache from the layers still to come in this micro-batch, and frees them.
// LLAMA_FED_E_STATE outside the hook: there llama_fed_release does the same.
LLAMA_API int32_t llama_fed_mask(struct llama_context * ctx, const llama_pos * pos, size_t n);

// At local layer il own tokens attend to none of the own tokens at pos[0..n), but each to itself. These tokens may still
// be to come; it lasts until their positions are forgotten.
LLAMA_API int32_t llama_fed_hide_local(struct llama_context * ctx, int32_t il, const llama_pos * pos, size_t n);

// Called after layer il with the residual stream that leaves it: rows [n][n_embd] of the tokens at pos[0..n), valid
// during the call. It may read rows and change nothing. At the model's last layer only tokens whose logits are wanted
// have rows; they are taken to be the last of the micro-batch. Models that name no layer outputs, or whose stream has
// several parts, never call it.
typedef void (*llama_fed_output_hook)(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_embd,
                                      void * user_data);

// Sets the hook for the outputs of all layers; hook NULL removes it.
LLAMA_API int32_t llama_fed_set_output_hook(struct llama_context * ctx, llama_fed_output_hook hook, void * user_data);

// Called at layer il with what the tokens at pos[0..n) look for: rows [n][n_head][head dim] as long as a K row of the layer,
// each the mean of the query heads that share a KV head, rotated back to position 0 by the RoPE of the layer's K; valid
// during the call, in which the context must not be used. Layers whose queries cannot be rotated back are left out.
typedef void (*llama_fed_query_hook)(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_head,
                                     uint32_t n_embd, void * user_data);

// Sets the hook for the queries of all layers; hook NULL removes it.
LLAMA_API int32_t llama_fed_set_query_hook(struct llama_context * ctx, llama_fed_query_hook hook, void * user_data);

//
// Rows that stay home: at some layers attention goes over rows of other devices without their leaving these. The queries
// are shown, the other devices' outputs and log-sum-exps come back, and are merged with those of the own cache.
//

// LLAMA_FED_OK when attention of this model can be shared so; otherwise LLAMA_FED_E_UNSUPPORTED and the reason, as
// llama_fed_check_model does.
LLAMA_API int32_t llama_fed_home_check(const struct llama_model * model, char * reason, size_t reason_size);

// Query heads and KV heads of layer il; LLAMA_FED_E_LAYER when it has no rows.
LLAMA_API int32_t llama_fed_head_count(const struct llama_model * model, int32_t il, uint32_t * n_head,
                                       uint32_t * n_head_kv);

// Called at layer il before attention is computed, with the queries of the tokens at pos[0..n), after RoPE:
// [n][n_head][n_dim]. Non-zero stops the graph.
typedef int32_t (*llama_fed_home_ask)(int32_t il, const llama_pos * pos, size_t n, const float * q, uint32_t n_head,
                                      uint32_t n_dim, void * user_data);

// Called at layer il after attention over the own cache is computed, with its output [n][n_head][n_dim] and the
// logarithm of each head's sum of exponentials, [n][n_head]. Both may be changed; out is what the model goes on with.
// Every call follows one of ask with the same tokens. Non-zero stops the graph.
typedef int32_t (*llama_fed_home_merge)(int32_t il, const llama_pos * pos, size_t n, float * out, float * lse,
                                        uint32_t n_head, uint32_t n_dim, void * user_data);

// Sets both for the layers with layers[il] != 0; ask NULL removes them. In them the context must not be used.
LLAMA_API int32_t llama_fed_set_home(struct llama_context * ctx, const uint8_t * layers, size_t n_layers,
                                     llama_fed_home_ask ask, llama_fed_home_merge merge, void * user_data);

// Rows of one participant that answer queries. Independent of the context that they were copied from.
struct llama_fed_rows;

// Copies rows pos[0..n) of the layers with layers[il] != 0 out of the context's caches, in f16. Attention at each of these
// layers must have been evaluated before. On failure returns NULL and *status is a code.
LLAMA_API struct llama_fed_rows * llama_fed_rows_keep(struct llama_context * ctx, const uint8_t * layers,
                                                      size_t n_layers, const llama_pos * pos, size_t n,
                                                      int32_t n_threads, int32_t * status);
LLAMA_API void                    llama_fed_rows_free(struct llama_fed_rows * rows);

// Bytes that the rows take.
LLAMA_API size_t llama_fed_rows_bytes(const struct llama_fed_rows * rows);

// Attention of n tokens at first, first + 1, … with queries q, [n][n_head][head dim of K], over the rows of layer il as if
// they stood shift positions further on; all of them must be before first. out: [n][n_head][head dim of V], lse:
// [n][n_head]; n_q, n_out and n_lse are the buffers' lengths in floats. Not from two threads at a time.
LLAMA_API int32_t llama_fed_rows_attend(struct llama_fed_rows * rows, int32_t il, llama_pos shift, llama_pos first,
                                        size_t n, const float * q, size_t n_q, float * out, size_t n_out, float * lse,
                                        size_t n_lse);

struct llama_fed_memory {
    uint32_t n_layers_local; // layers of each cache
    uint32_t n_layers_sync;
    uint32_t n_cells_local; // cells a layer
    uint32_t n_cells_sync;
    uint32_t n_used_local; // cells in use
    uint32_t n_used_sync;
    uint64_t n_bytes_local; // K and V of all layers
    uint64_t n_bytes_sync;
};

LLAMA_API int32_t llama_fed_get_memory(const struct llama_context * ctx, struct llama_fed_memory * out);

#ifdef __cplusplus
}
#endif
