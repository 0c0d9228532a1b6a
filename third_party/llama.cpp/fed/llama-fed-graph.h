// What the patched graph inputs call. An attention input of a federated context owns a second one, sync, for the sync
// layers, built against the second cache. Included by llama-graph.cpp.
#pragma once

#include "llama-graph.h"

// The input that layer il uses.
template <typename Input> Input * llama_fed_input(Input * inp, int il) {
    return inp->sync && inp->mctx->is_sync(il) ? inp->sync.get() : inp;
}

// Whether the sync input, if there is one, can serve another micro-batch.
template <typename Context, typename Input>
bool llama_fed_can_reuse(const std::unique_ptr<Input> & sync, const llm_graph_params & params) {
    if (!sync) {
        return true;
    }
    llm_graph_params params_sync = params;
    params_sync.mctx             = static_cast<const Context *>(params.mctx)->get_sync();
    return sync->can_reuse(params_sync);
}
