#include "binding_model.h"

#include "binding_log.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace binding {

namespace {

int parse_device(const std::string & text) {
    char *     end = nullptr;
    const long n   = std::strtol(text.c_str(), &end, 10);
    if (end == text.c_str() || *end != '\0' || n < 0 || n > 1024) {
        throw error("main GPU \"" + text + "\" is not the index of a device");
    }
    return (int) n;
}

// One share for each possible device, as llama_model_params wants it.
std::vector<float> parse_split(const std::string & text) {
    std::vector<float> shares;
    const char *       p = text.c_str();
    for (;;) {
        char *      end   = nullptr;
        const float share = std::strtof(p, &end);
        if (end == p || !(share >= 0) || (*end != '\0' && *end != ',' && *end != '/')) {
            throw error("tensor split \"" + text + "\" is not a list of shares such as 3,1");
        }
        shares.push_back(share);
        if (*end == '\0') {
            break;
        }
        p = end + 1;
    }
    if (shares.size() > llama_max_devices()) {
        throw error(string_format("tensor split \"%s\" names %zu devices, llama.cpp knows %zu", text.c_str(),
                                  shares.size(), llama_max_devices()));
    }
    shares.resize(llama_max_devices(), 0.0f);
    return shares;
}

llama_load_mode load_mode(bool mmap, bool mlock) {
    if (mmap) {
        return mlock ? LLAMA_LOAD_MODE_MMAP_MLOCK : LLAMA_LOAD_MODE_MMAP;
    }
    return mlock ? LLAMA_LOAD_MODE_MLOCK : LLAMA_LOAD_MODE_NONE;
}

// Tells the plain mistakes apart before llama.cpp sees the file.
void check_file(const std::string & path) {
    std::error_code ec;
    if (std::filesystem::is_directory(path, ec)) {
        throw error(path + ": is a directory");
    }
    errno = 0;
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw error(path + ": " + std::strerror(errno ? errno : EIO));
    }
    char magic[4] = {};
    file.read(magic, sizeof(magic));
    if (std::memcmp(magic, "GGUF", sizeof(magic)) != 0) {
        throw error(path + ": not a GGUF file");
    }
}

void backend_init(bool numa) {
    static std::once_flag once;
    static std::once_flag once_numa;
    std::call_once(once, llama_backend_init);
    if (numa) {
        std::call_once(once_numa, [] { llama_numa_init(GGML_NUMA_STRATEGY_DISTRIBUTE); });
    }
}

} // namespace

error failure(const std::string & what, const log_capture & log) {
    const std::string reason = log.reason();
    return error(reason.empty() ? what : what + ": " + reason);
}

// sequence

size_t sequence::room() const {
    const size_t n = llama_n_ctx(ctx);
    return n > held.size() ? n - held.size() : 0;
}

void sequence::append(const llama_token * tokens, size_t n, bool all) {
    const size_t limit = llama_n_batch(ctx);
    const size_t step  = batch > 0 && !all ? std::min(limit, (size_t) batch) : limit;
    if (n > room()) {
        throw error(string_format("%zu tokens do not fit: the context has %u and %zu are in use", n, llama_n_ctx(ctx),
                                  held.size()));
    }
    if (all && n > limit) {
        throw error(string_format("%zu tokens do not fit one batch of %zu", n, limit));
    }

    log_capture              log;
    std::vector<llama_token> part;
    std::vector<llama_pos>   pos;
    std::vector<int8_t>      wanted;
    for (size_t i = 0; i < n; i += part.size()) {
        part.assign(tokens + i, tokens + std::min(n, i + step));
        pos.resize(part.size());
        for (size_t j = 0; j < part.size(); j++) {
            pos[j] = (llama_pos) (held.size() + j);
        }
        wanted.assign(part.size(), all ? 1 : 0);
        wanted.back() = 1;

        llama_batch b        = llama_batch_get_one(part.data(), (int32_t) part.size());
        b.pos                = pos.data();
        b.logits             = wanted.data();
        const int32_t status = llama_decode(ctx, b);
        if (status != 0) {
            truncate(0);
            throw failure(status == 1 ? "the cache has no free cells" : "evaluation failed", log);
        }
        held.insert(held.end(), part.begin(), part.end());
    }
}

bool sequence::truncate(size_t n) {
    llama_memory_t memory = llama_get_memory(ctx);
    const bool     part   = n > 0 && memory && llama_memory_seq_rm(memory, 0, (llama_pos) n, -1);
    if (!part && memory) {
        llama_memory_clear(memory, false);
    }
    held.resize(part ? std::min(n, held.size()) : 0);
    return part || n == 0;
}

size_t sequence::reuse(const std::vector<llama_token> & prompt) {
    const size_t most = std::min(held.size(), prompt.empty() ? 0 : prompt.size() - 1);
    size_t       n    = 0;
    while (n < most && held[n] == prompt[n]) {
        n++;
    }
    truncate(n);
    return size();
}

bool sequence::shift(size_t keep) {
    llama_memory_t memory = llama_get_memory(ctx);
    if (!memory || !llama_memory_can_shift(memory) || held.size() < keep + 2) {
        return false;
    }
    const size_t end = keep + (held.size() - keep) / 2;
    if (!llama_memory_seq_rm(memory, 0, (llama_pos) keep, (llama_pos) end)) {
        return false;
    }
    llama_memory_seq_add(memory, 0, (llama_pos) end, -1, -(llama_pos) (end - keep));
    held.erase(held.begin() + (ptrdiff_t) keep, held.begin() + (ptrdiff_t) end);
    return true;
}

// model

model::model(load_options o) : options(std::move(o)) {
    log_init();
    check_file(options.path);
    backend_init(options.numa);

    std::vector<float> split;
    llama_model_params p = llama_model_default_params();
    p.n_gpu_layers       = options.n_gpu_layers;
    p.load_mode          = load_mode(options.mmap, options.mlock);
    if (!options.main_gpu.empty()) {
        p.main_gpu = parse_device(options.main_gpu);
    }
    if (!options.tensor_split.empty()) {
        split          = parse_split(options.tensor_split);
        p.tensor_split = split.data();
    }

    log_capture log;
    weights.reset(llama_model_load_from_file(options.path.c_str(), p));
    if (!weights) {
        throw failure(options.path + ": llama.cpp cannot load it", log);
    }
    if (!options.lora.empty()) {
        check_file(options.lora);
        lora = llama_adapter_lora_init(weights.get(), options.lora.c_str());
        if (!lora) {
            throw failure(options.lora + ": llama.cpp cannot load the adapter", log);
        }
    }
}

llama_context_params model::context_params() const {
    llama_context_params p = llama_context_default_params();
    p.n_ctx                = (uint32_t) std::max(0, options.n_ctx);
    if (options.n_batch > 0) {
        p.n_batch = (uint32_t) options.n_batch;
    }
    p.n_ubatch        = p.n_batch; // an encoder takes its whole input in one micro-batch
    p.type_k          = options.f16_cache ? GGML_TYPE_F16 : GGML_TYPE_F32;
    p.type_v          = p.type_k;
    p.rope_freq_base  = options.rope_base;
    p.rope_freq_scale = options.rope_scale;
    p.offload_kqv     = !options.low_vram;
    return p;
}

llama_context_ptr model::new_context() const {
    if (llama_model_has_encoder(weights.get()) && llama_model_has_decoder(weights.get())) {
        throw error("encoder-decoder models are not supported");
    }
    log_capture       log;
    llama_context_ptr ctx(llama_init_from_model(weights.get(), context_params()));
    if (!ctx) {
        throw failure("llama.cpp cannot make a context", log);
    }
    if (lora) {
        llama_adapter_lora * adapters[] = { lora };
        float                scales[]   = { 1.0f };
        if (llama_set_adapters_lora(ctx.get(), adapters, 1, scales) != 0) {
            throw failure(options.lora + ": the adapter does not fit the model", log);
        }
    }
    return ctx;
}

sequence & model::begin(int threads, int batch, bool text) {
    if (!owned) {
        owned       = new_context();
        seq         = std::make_unique<sequence>(owned.get());
        context_ptr = owned.get();
    }
    if (text && !llama_get_memory(owned.get())) {
        throw error("the model makes embeddings, not text");
    }
    if (threads <= 0) {
        threads = common_cpu_get_num_math();
    }
    // ggml's threads wait for each other by spinning: more of them than CPUs take many times longer
    const unsigned cpus = std::thread::hardware_concurrency();
    if (cpus > 0) {
        threads = std::min(threads, (int) cpus);
    }
    llama_set_n_threads(owned.get(), threads, threads);
    seq->set_batch(batch);
    if (!resume) {
        seq->truncate(0);
    }
    resume = false;
    return *seq;
}

std::vector<llama_token> model::tokenize(const std::string & text) const {
    const llama_vocab * v = vocab();
    if (llama_vocab_type(v) == LLAMA_VOCAB_TYPE_NONE) {
        throw error("the model has no vocabulary");
    }
    return common_tokenize(v, text, true, true);
}

std::vector<float> model::embed(const std::vector<llama_token> & tokens, int threads) {
    if (tokens.empty()) {
        throw error("there is nothing to embed");
    }
    for (const llama_token t : tokens) {
        if (t < 0 || t >= llama_vocab_n_tokens(vocab())) {
            throw error(string_format("%d is not a token of the model", t));
        }
    }

    sequence &           s       = begin(threads, 0, false);
    llama_context *      ctx     = s.context();
    const llama_memory_t memory  = llama_get_memory(ctx);
    const auto           pooling = llama_pooling_type(ctx);
    if (pooling == LLAMA_POOLING_TYPE_RANK) {
        throw error("the model ranks texts, it has no embeddings");
    }
    s.truncate(0);

    // outputs of all tokens are computed while this is on; Predict wants them off
    struct embeddings_on {
        llama_context * ctx;

        explicit embeddings_on(llama_context * ctx) : ctx(ctx) { llama_set_embeddings(ctx, true); }

        ~embeddings_on() { llama_set_embeddings(ctx, false); }
    };

    const float * row = nullptr;
    log_capture   log;
    if (memory && pooling == LLAMA_POOLING_TYPE_NONE) {
        s.append(tokens.data(), tokens.size() - 1);
        const embeddings_on on(ctx);
        s.append(&tokens.back(), 1);
        row = llama_get_embeddings_ith(ctx, -1);
        s.truncate(0);
    } else {
        if (tokens.size() > llama_n_ubatch(ctx)) {
            throw error(string_format("%zu tokens do not fit one batch of %u, which this model's embeddings need",
                                      tokens.size(), llama_n_ubatch(ctx)));
        }
        const embeddings_on      on(ctx);
        std::vector<llama_token> copy   = tokens; // llama_batch is not const
        const llama_batch        batch  = llama_batch_get_one(copy.data(), (int32_t) copy.size());
        const int32_t            status = memory ? llama_decode(ctx, batch) : llama_encode(ctx, batch);
        if (status != 0) {
            s.truncate(0);
            throw failure("evaluation failed", log);
        }
        row = pooling == LLAMA_POOLING_TYPE_NONE ? llama_get_embeddings_ith(ctx, -1) : llama_get_embeddings_seq(ctx, 0);
        s.truncate(0);
    }
    if (!row) {
        throw failure("llama.cpp returned no embedding", log);
    }
    return std::vector<float>(row, row + llama_model_n_embd_out(weights.get()));
}

// turn

turn::turn(model & m) : m(m) {
    if (m.turn_of.load() == std::this_thread::get_id()) {
        throw error("the model is busy with the call whose callback this is");
    }
    m.turn_mutex.lock();
    m.turn_of = std::this_thread::get_id();
}

turn::~turn() {
    m.turn_of = std::thread::id();
    m.turn_mutex.unlock();
}

} // namespace binding
