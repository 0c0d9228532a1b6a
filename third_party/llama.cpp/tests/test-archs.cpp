// Builds a tiny random model of every architecture with llama.cpp's own generator, holds each to fed_check, and prints
// the matrix: bit-identical, or refused and why. Each variant runs in a process of its own, so that one that crashes or
// hangs is a line of the matrix.
//
//   test-archs [-a REGEX] [-d] [-o FILE]    -a: only architectures that match; -d: all layers and caches on a device whose
//                                           memory is not this program's; -o: the matrix as a Markdown list to FILE
//
// Exits with 1 when an architecture that llama-fed.h takes fails a check. A figure in brackets is the largest relative
// error of moved rows; f16 rounds to 0.0005.

// the generator and its lists of variants are static functions of this program of upstream's
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#define main upstream_main
#include "test-llama-archs.cpp"
#undef main
#pragma GCC diagnostic pop

#include "far-device.h"
#include "llama-model.h"
#include "oracle.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

namespace {

constexpr size_t   SEED    = 1234;
constexpr float    STDEV   = 0.1f;
constexpr uint32_t N_VOCAB = 128; // the smallest vocabulary that the generator makes

// A variant takes less than a second; one that takes this long hangs.
constexpr unsigned HANG_SECONDS = 120;

constexpr size_t LIST_COLUMNS = 120;

// The device that layers are on; null: this program's own memory and processor.
ggml_backend_dev_t device = nullptr;

// One model. Beside the dense and the sparse model of each architecture there are those whose files leave out or add
// what decides about acceptance or rotation; the generator's files have every key and every optional tensor.
struct variant {
    llm_arch     arch;
    bool         moe;
    const char * label                                               = nullptr;
    void (*edit_file)(gguf_context * file, const std::string & arch) = nullptr;
    void (*edit_model)(llama_model & model)                          = nullptr;

    std::string name() const { return std::string(llm_arch_name(arch)) + (label ? std::string(" ") + label : ""); }

    std::string markdown() const {
        return std::string("`") + llm_arch_name(arch) + "`" + (label ? std::string(" ") + label : "");
    }
};

void scale_rope(gguf_context * file, const std::string & arch, const char * type) {
    gguf_set_val_str(file, (arch + ".rope.scaling.type").c_str(), type);
    gguf_set_val_f32(file, (arch + ".rope.scaling.factor").c_str(), 4.0f);
    gguf_set_val_u32(file, (arch + ".rope.scaling.original_context_length").c_str(), 64);
}

void scale_linearly(gguf_context * file, const std::string & arch) {
    scale_rope(file, arch, "linear");
}

void scale_by_yarn(gguf_context * file, const std::string & arch) {
    scale_rope(file, arch, "yarn");
}

void drop_sections(gguf_context * file, const std::string & arch) {
    gguf_remove_key(file, (arch + ".rope.dimension_sections").c_str());
}

void drop_latent_sizes(gguf_context * file, const std::string & arch) {
    gguf_remove_key(file, (arch + ".attention.key_length_mla").c_str());
    gguf_remove_key(file, (arch + ".attention.value_length_mla").c_str());
}

void drop_second_attention(gguf_context * file, const std::string & arch) {
    const uint32_t heads[] = { 2, 0 };
    gguf_set_arr_data(file, (arch + ".attention.head_count").c_str(), GGUF_TYPE_UINT32, heads, 2);
    gguf_set_arr_data(file, (arch + ".attention.head_count_kv").c_str(), GGUF_TYPE_UINT32, heads, 2);
}

void share_rows(gguf_context * file, const std::string & arch) {
    gguf_set_val_u32(file, (arch + ".attention.shared_kv_layers").c_str(), 2);
}

void drop_long_factors(llama_model & model) {
    for (llama_layer & layer : model.layers) {
        layer.rope_long  = nullptr;
        layer.rope_short = nullptr;
    }
}

const variant EDITED[] = {
    { LLM_ARCH_LLAMA, false, "(linear scaling)", scale_linearly, nullptr },
    { LLM_ARCH_LLAMA, false, "(YaRN)", scale_by_yarn, nullptr },
    { LLM_ARCH_QWEN2, false, "(linear scaling)", scale_linearly, nullptr },
    { LLM_ARCH_QWEN2, false, "(YaRN)", scale_by_yarn, nullptr },
    { LLM_ARCH_PHI3, false, "(short context)", nullptr, drop_long_factors },
    { LLM_ARCH_PHIMOE, true, "(short context)", nullptr, drop_long_factors },
    { LLM_ARCH_MINICPM3, false, "(short context)", nullptr, drop_long_factors },
    { LLM_ARCH_GLM4, false, "(one axis)", drop_sections, nullptr },
    { LLM_ARCH_GLM4_MOE, true, "(one axis)", drop_sections, nullptr },
    { LLM_ARCH_DECI, false, "(layer without attention)", drop_second_attention, nullptr },
    { LLM_ARCH_GEMMA4, false, "(shared rows)", share_rows, nullptr },
    { LLM_ARCH_DEEPSEEK2, true, "(K and V rows)", drop_latent_sizes, nullptr },
};

// in the order of the matrix
enum class verdict { IDENTICAL, REFUSED, NO_MODEL, FAILED };

struct result {
    verdict      what  = verdict::FAILED;
    fed_findings found = {}; // of IDENTICAL
    std::string  why   = ""; // of REFUSED and FAILED
};

// Upstream's own test leaves these out: its generator does not know all that their files need.
bool left_out_upstream(llm_arch arch) {
    switch (arch) {
        case LLM_ARCH_GEMMA4:
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_EAGLE3:
        case LLM_ARCH_DFLASH:           return true;
        default:                        return !arch_supported(arch);
    }
}

std::vector<variant> variants(const std::string & filter) {
    std::vector<variant> out;
    for (llm_arch arch : llm_arch_all()) {
        if (arch == LLM_ARCH_UNKNOWN || arch == LLM_ARCH_CLIP || !arch_matches(filter, arch)) {
            continue;
        }
        if (!moe_mandatory(arch)) {
            out.push_back({ arch, false });
        }
        if (moe_implemented(arch)) {
            out.push_back({ arch, true, moe_mandatory(arch) ? nullptr : "(experts)" });
        }
        for (const variant & v : EDITED) {
            if (v.arch == arch) {
                out.push_back(v);
            }
        }
    }
    std::stable_sort(out.begin(), out.end(), [](const variant & a, const variant & b) { return a.name() < b.name(); });
    return out;
}

// Adds keys that the generator leaves out.
void complete(gguf_context * file, llm_arch arch) {
    const std::string name = llm_arch_name(arch);
    // another base than where nothing is said
    gguf_set_val_f32(file, (name + ".rope.freq_base").c_str(), 500000.0f);
    if (arch == LLM_ARCH_GEMMA4) {
        const bool windows[] = { true, true, true, true, false };
        gguf_set_arr_data(file, (name + ".attention.sliding_window_pattern").c_str(), GGUF_TYPE_BOOL, windows, 5);
    }
    if (arch == LLM_ARCH_RWKV7 || arch == LLM_ARCH_ARWKV7) {
        for (const char * rank : { "decay", "iclr", "value_residual_mix", "gate" }) {
            gguf_set_val_u32(file, (name + ".attention." + rank + "_lora_rank").c_str(), 32);
        }
    }
}

llama_model_ptr make_model(const variant & v) {
    const gguf_context_ptr file = get_gguf_ctx(v.arch, v.moe);
    complete(file.get(), v.arch);
    if (v.edit_file) {
        v.edit_file(file.get(), llm_arch_name(v.arch));
    }
    ggml_backend_dev_t devices[] = { device, nullptr };
    llama_model_params params    = llama_model_default_params();
    params.progress_callback     = silent_model_load_progress;
    params.devices               = devices;
    tensor_data_params tensors   = { SEED, STDEV };
    llama_model_ptr    model(llama_model_init_from_user(file.get(), set_tensor_data, &tensors, params));
    if (!model) {
        throw std::runtime_error("llama.cpp does not load it");
    }
    if (v.edit_model) {
        v.edit_model(*model);
    }
    return model;
}

enum class depth { CENTRALISED, ALL };

result examine(const variant & v, depth how_far) {
    result out;
    try {
        const llama_model_ptr model = make_model(v);
        out.why                     = fed_refusal(model.get());
        if (!out.why.empty()) {
            out.what = verdict::REFUSED;
            return out;
        }
        if (how_far == depth::CENTRALISED) {
            fed_run_centralised(model.get(), N_VOCAB);
        } else {
            out.found = fed_check(model.get(), N_VOCAB);
        }
        const far_counts counts = far_counted();
        if (device && how_far == depth::ALL &&
            (counts.nodes == 0 || counts.rows_read == 0 || counts.rows_written == 0)) {
            throw std::runtime_error("it was not the device that computed and had the rows");
        }
        out.what = verdict::IDENTICAL;
    } catch (const std::exception & e) {
        out.why = e.what();
    }
    return out;
}

void log_errors(ggml_log_level level, const char * text, void * /*user_data*/) {
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

// examine in a process of its own, whose result comes through a pipe as the last line of what it prints.
result examine_apart(const variant & v, depth how_far) {
    int fds[2];
    if (pipe(fds) != 0) {
        throw std::runtime_error("there is no pipe for another process");
    }
    const pid_t pid = fork();
    if (pid < 0) {
        throw std::runtime_error("another process cannot be started");
    }
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        alarm(HANG_SECONDS);
        llama_log_set(log_errors, nullptr);
        const result out = examine(v, how_far);
        fprintf(stderr, "\nresult %d %d %.9g %s\n", (int) out.what, (int) out.found.rotation, out.found.rotation_error,
                out.why.c_str());
        _exit(0);
    }
    close(fds[1]);
    std::string printed;
    char        buf[4096];
    for (ssize_t n; (n = read(fds[0], buf, sizeof(buf))) > 0;) {
        printed.append(buf, n);
    }
    close(fds[0]);
    int status = 0;
    waitpid(pid, &status, 0);

    std::istringstream lines(printed);
    std::string        last;
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty()) {
            last = line;
        }
    }
    result             out;
    std::istringstream words(last);
    std::string        first;
    int                what     = 0;
    int                rotation = 0;
    if (words >> first >> what >> rotation >> out.found.rotation_error && first == "result") {
        out.what           = (verdict) what;
        out.found.rotation = (fed_rotation) rotation;
        std::getline(words >> std::ws, out.why);
        return out;
    }
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    out.why          = signal == SIGALRM ? "it hangs" : std::string("it crashes, ") + strsignal(signal);
    if (!last.empty()) {
        out.why += ": " + last;
    }
    return out;
}

result judge(const variant & v) {
    if (left_out_upstream(v.arch)) {
        result out = examine_apart(v, depth::CENTRALISED);
        if (out.what == verdict::REFUSED) {
            return out;
        }
        if (out.what == verdict::FAILED) {
            out.what = verdict::NO_MODEL;
            return out;
        }
    }
    return examine_apart(v, depth::ALL);
}

// What the matrix says, without figures: they differ from one CPU to the next.
std::string describe(const result & r) {
    switch (r.what) {
        case verdict::FAILED:   return "FAILED: " + r.why;
        case verdict::NO_MODEL: return "not tried: llama.cpp's generator makes no model of it that llama.cpp runs";
        case verdict::REFUSED:  return "refused: " + r.why;
        default:                break;
    }
    switch (r.found.rotation) {
        case fed_rotation::ROTATES:     return "bit-identical, K rows rotate";
        case fed_rotation::INDEPENDENT: return "bit-identical, K rows are the same at every position";
        default:                        return "bit-identical, in place only";
    }
}

// A Markdown list of the groups, wrapped.
void write_list(std::ostream &                                                              out,
                const std::map<std::pair<verdict, std::string>, std::vector<std::string>> & groups) {
    for (const auto & [key, names] : groups) {
        std::string line = "- **" + key.second + "** (" + std::to_string(names.size()) + "):";
        for (size_t i = 0; i < names.size(); ++i) {
            const std::string word = names[i] + (i + 1 < names.size() ? "," : "");
            if (line.size() + 1 + word.size() > LIST_COLUMNS) {
                out << line << "\n";
                line = " ";
            }
            line += " " + word;
        }
        out << line << "\n";
    }
}

} // namespace

#ifndef TEST_ARCHS_AS_A_PART // of another test

int main(int argc, char ** argv) {
    std::string filter;
    std::string list;
    int         opt;
    while ((opt = getopt(argc, argv, "a:do:")) != -1) {
        switch (opt) {
            case 'a': filter = optarg; break;
            case 'd': device = far_device(); break;
            case 'o': list = optarg; break;
            default:  fprintf(stderr, "usage: %s [-a REGEX] [-d] [-o FILE]\n", argv[0]); return 2;
        }
    }
    setenv("GGML_NO_BACKTRACE", "1", 1);
    if (device) {
        try {
            far_check();
        } catch (const std::exception & e) {
            fprintf(stderr, "%s\n", e.what());
            return 1;
        }
    }

    std::map<std::pair<verdict, std::string>, std::vector<std::string>> groups;

    size_t n_failed = 0;
    for (const variant & v : variants(filter)) {
        const result      r    = judge(v);
        const std::string text = describe(r);
        groups[{ r.what, text }].push_back(v.markdown());
        printf("%-32s %s", v.name().c_str(), text.c_str());
        if (r.what == verdict::IDENTICAL && r.found.rotation != fed_rotation::INPLACE) {
            printf(" (%.1e)", r.found.rotation_error);
        }
        if (r.what == verdict::NO_MODEL) {
            printf(" (%s)", r.why.c_str());
        }
        printf("\n");
        fflush(stdout);
        n_failed += r.what == verdict::FAILED;
    }
    if (!list.empty()) {
        std::ofstream out(list);
        write_list(out, groups);
        out.close();
        if (!out) {
            fprintf(stderr, "%s cannot be written\n", list.c_str());
            return 1;
        }
    }
    if (n_failed > 0) {
        fprintf(stderr, "%zu variants failed\n", n_failed);
    }
    return n_failed > 0;
}

#endif
