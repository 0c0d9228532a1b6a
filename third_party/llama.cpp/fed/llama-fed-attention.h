// Attention of few queries to rows that stay where they are: its output, and the logarithm of its sum of exponentials,
// by which outputs over different rows are merged into the output over all of them.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "llama-kv-cache-fed.h"

#include <vector>

// A CPU backend with threads of its own, and memory that calls reuse.
class llama_fed_attention {
public:
    // nullptr if there is no CPU backend or no memory
    static std::unique_ptr<llama_fed_attention> create(int32_t n_threads);

    ~llama_fed_attention();

    // lse [n][n_head] of a node GGML_OP_FLASH_ATTN_EXT, from its own queries, keys, mask and sinks.
    int32_t sums(const ggml_tensor * node, float * lse);

    // Queries q [n][n_head][head dim of K] of tokens at first, first + 1, … over rows that stand at pos[0..n_rows) + shift,
    // ascending. k: f16 [head dim of K, n_rows, n_head_kv], vt: f16 [n_rows, head dim of V, n_head_kv]. Queries are turned
    // by -shift positions before. out: [n][n_head][head dim of V]; 0 and an lse of -infinity where the window hides all.
    struct rows {
        const llama_fed_layer * layer = nullptr; // window, RoPE and what its attention does
        ggml_tensor *           k     = nullptr;
        ggml_tensor *           vt    = nullptr;
        const llama_pos *       pos   = nullptr;
    };

    int32_t attend(const rows & r, llama_pos shift, llama_pos first, size_t n, const float * q, float * out,
                   float * lse);

private:
    llama_fed_attention() = default;

    int32_t attend_chunk(const rows & r, llama_pos shift, llama_pos first, size_t n, const float * q, float * out,
                         float * lse);

    // room for size bytes of tensors
    bool reserve(size_t size);
    bool compute(ggml_cgraph * graph, double n_products);

    ggml_backend_ptr        cpu;
    ggml_backend_buffer_ptr buffer;
    std::vector<uint8_t>    meta; // of a graph
    std::vector<uint8_t>    copy; // of tensors that are elsewhere
    std::vector<float>      mask;

    int32_t                         n_threads   = 1;
    ggml_threadpool_t               pool        = nullptr;
    decltype(&ggml_threadpool_free) pool_free   = nullptr;
    ggml_backend_set_n_threads_t    set_threads = nullptr;
};
