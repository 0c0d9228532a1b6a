#include "shim.h"

#include "build-info.h"
#include "chat.h"
#include "common.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "json-schema-to-grammar.h"
#include "json.h"
#include "llama.h"
#include "sampling.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" int32_t shimHook(int32_t il, int32_t * pos, size_t n, uintptr_t handle); // exported by hook.go

extern "C" void shimOutput(int32_t il, int32_t * pos, size_t n, float * rows, uint32_t n_embd,
                           uintptr_t handle); // exported by output.go

extern "C" int32_t shimHomeAsk(int32_t il, int32_t * pos, size_t n, float * q, uint32_t n_head, uint32_t n_dim,
                               uintptr_t handle);
extern "C" int32_t shimHomeMerge(int32_t il, int32_t * pos, size_t n, float * out, float * lse, uint32_t n_head,
                                 uint32_t n_dim, uintptr_t handle);
extern "C" void    shimQuery(int32_t il, int32_t * pos, size_t n, float * rows, uint32_t n_head, uint32_t n_embd,
                             uintptr_t handle); // exported by query.go

namespace {

thread_local std::string last_error;

// llama.cpp logs a line in pieces: a level, then GGML_LOG_LEVEL_CONT
void on_log(ggml_log_level level, const char * text, void * /*user_data*/) {
    static thread_local bool in_error = false;
    if (level != GGML_LOG_LEVEL_CONT) {
        in_error = level == GGML_LOG_LEVEL_ERROR;
        if (in_error) {
            last_error.clear();
        }
    }
    if (in_error) {
        last_error += text;
    }
}

void set_error(char * err, size_t err_size, const char * what) {
    if (err && err_size > 0) {
        snprintf(err, err_size, "%s", what);
    }
}

int64_t copy_out(const std::string & s, char * buf, size_t buf_size) {
    if (s.size() <= buf_size) {
        memcpy(buf, s.data(), s.size());
    }
    return (int64_t) s.size();
}

} // namespace

void shim_log_init(void) {
    llama_log_set(on_log, nullptr);
}

// glibc raises the size from which it maps memory to that of the largest block ever freed, and keeps smaller ones for each
// thread: the caches of sessions that are over, opened on one thread after the other, would stay. A fixed size turns this off.
static void return_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_ARENA_MAX, 2);
#endif
}

size_t shim_allocated(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    const struct mallinfo2 all = mallinfo2();
    return all.uordblks + all.hblkhd;
#else
    return 0;
#endif
}

size_t shim_backends_load(const char * dir) {
    static std::once_flag once;
    std::call_once(once, [dir] {
        return_memory();
        // where none is linked in; llama_backend_init's own search would take what lies in the working directory, too
        if (ggml_backend_reg_count() == 0) {
            ggml_backend_load_all_from_path(dir);
        }
        llama_backend_init();
    });
    return ggml_backend_dev_count();
}

size_t shim_log_take(char * buf, size_t size) {
    while (!last_error.empty() && (last_error.back() == '\n' || last_error.back() == ' ')) {
        last_error.pop_back();
    }
    set_error(buf, size, last_error.c_str());
    const size_t n = std::min(last_error.size(), size > 0 ? size - 1 : 0);
    last_error.clear();
    return n;
}

const char * shim_commit(void) {
    return llama_commit();
}

//
// chat templates
//

struct shim_template {
    common_chat_templates_ptr templates;
};

shim_template * shim_template_new(const llama_model * model, char * err, size_t err_size) {
    try {
        if (!llama_model_chat_template(model, nullptr)) {
            set_error(err, err_size, "the model has no chat template");
            return nullptr;
        }
        auto t       = std::make_unique<shim_template>();
        t->templates = common_chat_templates_init(model, "");
        return t.release();
    } catch (const std::exception & e) {
        set_error(err, err_size, e.what());
        return nullptr;
    }
}

void shim_template_free(shim_template * t) {
    delete t;
}

int64_t shim_template_apply(const shim_template * t, const char * const * roles, const char * const * contents,
                            size_t n, bool generate, char * buf, size_t buf_size, char * err, size_t err_size) {
    try {
        common_chat_templates_inputs inputs;
        for (size_t i = 0; i < n; ++i) {
            common_chat_msg msg;
            msg.role    = roles[i];
            msg.content = contents[i];
            inputs.messages.push_back(std::move(msg));
        }
        inputs.add_generation_prompt = generate;
        return copy_out(common_chat_templates_apply(t->templates.get(), inputs).prompt, buf, buf_size);
    } catch (const std::exception & e) {
        set_error(err, err_size, e.what());
        return -1;
    }
}

//
// sampling
//

struct shim_sampler {
    common_sampler_ptr sampler;
};

int64_t shim_schema_grammar(const char * schema, char * buf, size_t buf_size, char * err, size_t err_size) {
    try {
        return copy_out(json_schema_to_grammar(common_json::parse(schema)), buf, buf_size);
    } catch (const std::exception & e) {
        set_error(err, err_size, e.what());
        return -1;
    }
}

shim_sampler * shim_sampler_new(const llama_model * model, const shim_sampling * params, char * err, size_t err_size) {
    try {
        common_params_sampling sampling;
        sampling.seed            = params->seed;
        sampling.temp            = params->temperature;
        sampling.top_k           = params->top_k;
        sampling.top_p           = params->top_p;
        sampling.min_p           = params->min_p;
        sampling.penalty_last_n  = params->repeat_last_n;
        sampling.penalty_repeat  = params->repeat_penalty;
        sampling.penalty_freq    = params->frequency_penalty;
        sampling.penalty_present = params->presence_penalty;
        sampling.no_perf         = true;
        if (params->grammar) {
            sampling.grammar = { COMMON_GRAMMAR_TYPE_USER, params->grammar };
        }
        auto s = std::make_unique<shim_sampler>();
        s->sampler.reset(common_sampler_init(model, sampling));
        if (!s->sampler) {
            set_error(err, err_size, "the grammar is not valid GBNF");
            return nullptr;
        }
        return s.release();
    } catch (const std::exception & e) {
        set_error(err, err_size, e.what());
        return nullptr;
    }
}

void shim_sampler_free(shim_sampler * s) {
    delete s;
}

int32_t shim_sampler_next(shim_sampler * s, llama_context * ctx, int32_t index) {
    try {
        const llama_token token = common_sampler_sample(s->sampler.get(), ctx, index);
        common_sampler_accept(s->sampler.get(), token, true);
        return token;
    } catch (const std::exception &) {
        return -1;
    }
}

//
// threads
//

struct shim_threads {
    llama_context *                 ctx  = nullptr;
    ggml_threadpool_t               pool = nullptr;
    decltype(&ggml_threadpool_free) free = nullptr;
};

shim_threads * shim_threads_attach(llama_context * ctx, int32_t n_threads) {
    // through the registry: with run-time CPU variants ggml-cpu is not linked in
    ggml_backend_dev_t dev = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (!dev || n_threads < 2) {
        return nullptr;
    }
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
    auto new_fn  = (decltype(&ggml_threadpool_new)) ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_new");
    auto free_fn = (decltype(&ggml_threadpool_free)) ggml_backend_reg_get_proc_address(reg, "ggml_threadpool_free");
    if (!new_fn || !free_fn) {
        return nullptr;
    }
    ggml_threadpool_params params = ggml_threadpool_params_default(n_threads);
    ggml_threadpool_t      pool   = new_fn(&params);
    if (!pool) {
        return nullptr;
    }
    llama_attach_threadpool(ctx, pool, pool);
    return new shim_threads{ ctx, pool, free_fn };
}

void shim_threads_free(shim_threads * t) {
    if (t) {
        llama_detach_threadpool(t->ctx);
        t->free(t->pool);
        delete t;
    }
}

void shim_threads_use(llama_context * ctx, int32_t n) {
    llama_set_n_threads(ctx, n, n);
}

//
// evaluation
//

struct shim_abort {
    std::atomic<bool> on{ false };
};

shim_abort * shim_abort_new(void) {
    return new (std::nothrow) shim_abort;
}

void shim_abort_free(shim_abort * a) {
    delete a;
}

void shim_abort_set(shim_abort * a, bool on) {
    a->on = on;
}

void shim_abort_install(shim_abort * a, llama_context_params * params) {
    params->abort_callback      = [](void * data) { return static_cast<shim_abort *>(data)->on.load(); };
    params->abort_callback_data = a;
}

int32_t shim_decode(llama_context * ctx, const int32_t * tokens, int32_t n, int32_t pos, int32_t outputs) {
    static_assert(sizeof(llama_token) == sizeof(int32_t) && sizeof(llama_pos) == sizeof(int32_t));

    std::vector<llama_pos>      positions(n);
    std::vector<int32_t>        n_seq(n, 1);
    std::vector<int8_t>         wanted(n, 0);
    llama_seq_id                seq = 0;
    std::vector<llama_seq_id *> seqs(n + 1, &seq);
    for (int32_t i = 0; i < n; ++i) {
        positions[i] = pos + i;
        wanted[i]    = i >= n - outputs;
    }
    seqs[n]           = nullptr;
    llama_batch batch = {};
    batch.n_tokens    = n;
    batch.token       = const_cast<llama_token *>(tokens);
    batch.pos         = positions.data();
    batch.n_seq_id    = n_seq.data();
    batch.seq_id      = seqs.data();
    batch.logits      = wanted.data();
    try {
        return llama_decode(ctx, batch);
    } catch (const std::exception & e) {
        last_error = e.what();
        return -3;
    }
}

static int32_t on_layer(int32_t il, const llama_pos * pos, size_t n, void * user_data) {
    return shimHook(il, const_cast<llama_pos *>(pos), n, (uintptr_t) user_data);
}

int32_t shim_set_hook(llama_context * ctx, const uint8_t * layers, size_t n_layers, uintptr_t handle) {
    return llama_fed_set_hook(ctx, layers, n_layers, layers ? on_layer : nullptr, (void *) handle);
}

static void on_output(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_embd,
                      void * user_data) {
    shimOutput(il, const_cast<llama_pos *>(pos), n, const_cast<float *>(rows), n_embd, (uintptr_t) user_data);
}

int32_t shim_set_output_hook(llama_context * ctx, bool on, uintptr_t handle) {
    return llama_fed_set_output_hook(ctx, on ? on_output : nullptr, (void *) handle);
}

static void on_query(int32_t il, const llama_pos * pos, size_t n, const float * rows, uint32_t n_head, uint32_t n_embd,
                     void * user_data) {
    shimQuery(il, const_cast<llama_pos *>(pos), n, const_cast<float *>(rows), n_head, n_embd, (uintptr_t) user_data);
}

int32_t shim_set_query_hook(llama_context * ctx, bool on, uintptr_t handle) {
    return llama_fed_set_query_hook(ctx, on ? on_query : nullptr, (void *) handle);
}

static int32_t on_home_ask(int32_t il, const llama_pos * pos, size_t n, const float * q, uint32_t n_head,
                           uint32_t n_dim, void * user_data) {
    return shimHomeAsk(il, const_cast<llama_pos *>(pos), n, const_cast<float *>(q), n_head, n_dim,
                       (uintptr_t) user_data);
}

static int32_t on_home_merge(int32_t il, const llama_pos * pos, size_t n, float * out, float * lse, uint32_t n_head,
                             uint32_t n_dim, void * user_data) {
    return shimHomeMerge(il, const_cast<llama_pos *>(pos), n, out, lse, n_head, n_dim, (uintptr_t) user_data);
}

int32_t shim_set_home(llama_context * ctx, const uint8_t * layers, size_t n_layers, uintptr_t handle) {
    return llama_fed_set_home(ctx, layers, n_layers, layers ? on_home_ask : nullptr, on_home_merge, (void *) handle);
}
