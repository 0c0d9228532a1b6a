// State files. llama.cpp's own readers abort the process on a file that ends too early, so the file is ours: read
// whole, checked, and only then given to llama.cpp as memory.
//
//      0  magic "golama1\n"
//      8  u64 checksum of all that follows
//     16  u64 fingerprint of the model
//     24  u64 number of tokens, n
//     32  u64 bytes of llama.cpp's sequence state, m
//     40  n tokens of 4 bytes
//    ...  m bytes
//
// Integers are in the machine's byte order, as they are in llama.cpp's state.

#include "binding_log.h"
#include "binding_model.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace binding {

namespace {

struct header {
    char     magic[8];
    uint64_t checksum;
    uint64_t model;
    uint64_t n_tokens;
    uint64_t n_state;
};

static_assert(sizeof(header) == 40, "the layout drawn above");

const char file_magic[8] = { 'g', 'o', 'l', 'a', 'm', 'a', '1', '\n' };

const uint64_t hash_start = 0xcbf29ce484222325;

// FNV-1a. Against damage, not against malice.
uint64_t hash(const void * data, size_t n, uint64_t h) {
    const auto * p = static_cast<const unsigned char *>(data);
    for (size_t i = 0; i < n; i++) {
        h = (h ^ p[i]) * 0x100000001b3;
    }
    return h;
}

// What tells models apart without reading their weights.
uint64_t fingerprint(const llama_model * m) {
    char desc[128] = {};
    llama_model_desc(m, desc, sizeof(desc));
    const uint64_t size[] = { llama_model_n_params(m), llama_model_size(m) };
    return hash(size, sizeof(size), hash(desc, sizeof(desc), hash_start));
}

uint64_t checksum(const std::vector<char> & file) {
    const size_t from = offsetof(header, model);
    return hash(file.data() + from, file.size() - from, hash_start);
}

} // namespace

void sequence::save(const std::string & path) const {
    const std::string part = path + ".part"; // the file appears whole or not at all
    try {
        log_capture  log;
        const size_t n_tokens = held.size() * sizeof(llama_token);
        const size_t n_state  = llama_state_seq_get_size(ctx, 0);
        header       h        = {};
        std::memcpy(h.magic, file_magic, sizeof(h.magic));
        h.model    = fingerprint(llama_get_model(ctx));
        h.n_tokens = held.size();
        h.n_state  = n_state;

        std::vector<char> file(sizeof(h) + n_tokens + n_state);
        std::memcpy(file.data() + sizeof(h), held.data(), n_tokens);
        auto * state = reinterpret_cast<uint8_t *>(file.data() + sizeof(h) + n_tokens);
        if (n_state == 0 || llama_state_seq_get_data(ctx, state, n_state, 0) != n_state) {
            throw failure("llama.cpp did not give the state out", log);
        }
        std::memcpy(file.data(), &h, sizeof(h));
        h.checksum = checksum(file);
        std::memcpy(file.data(), &h, sizeof(h));

        std::ofstream out(part, std::ios::binary | std::ios::trunc);
        // rows are as private as the text; the file is still empty
        std::filesystem::permissions(part, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
        out.write(file.data(), (std::streamsize) file.size());
        out.close();
        if (!out) {
            throw error("not written");
        }
        std::filesystem::rename(part, path);
    } catch (const std::exception & e) {
        std::remove(part.c_str());
        throw error(path + ": " + e.what());
    }
}

void sequence::load(const std::string & path) {
    truncate(0);
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    if (!in) {
        throw error(path + ": cannot be read");
    }
    const std::streamoff size = in.tellg();
    header               h    = {};
    if (size < (std::streamoff) sizeof(h)) {
        throw error(path + ": not a state file");
    }
    std::vector<char> file((size_t) size);
    in.seekg(0);
    if (!in.read(file.data(), size)) {
        throw error(path + ": cannot be read");
    }
    std::memcpy(&h, file.data(), sizeof(h));
    if (std::memcmp(h.magic, file_magic, sizeof(h.magic)) != 0) {
        throw error(path + ": not a state file");
    }
    const size_t rest = file.size() - sizeof(h);
    if (h.checksum != checksum(file) || h.n_tokens > rest / sizeof(llama_token) ||
        h.n_state != rest - h.n_tokens * sizeof(llama_token)) {
        throw error(path + ": the file is damaged");
    }
    if (h.model != fingerprint(llama_get_model(ctx))) {
        throw error(path + ": the state of another model");
    }
    if (h.n_tokens > llama_n_ctx(ctx)) {
        throw error(
            string_format("%s: %zu tokens, the context takes %u", path.c_str(), (size_t) h.n_tokens, llama_n_ctx(ctx)));
    }
    std::vector<llama_token> tokens(h.n_tokens);
    std::memcpy(tokens.data(), file.data() + sizeof(h), tokens.size() * sizeof(llama_token));
    const auto * state = reinterpret_cast<const uint8_t *>(file.data() + file.size() - h.n_state);

    log_capture log;
    const bool  read = llama_state_seq_set_data(ctx, state, h.n_state, 0) == h.n_state;
    if (!read || llama_memory_seq_pos_max(llama_get_memory(ctx), 0) != (llama_pos) tokens.size() - 1) {
        truncate(0);
        throw failure(path + ": llama.cpp does not take the state", log);
    }
    held = std::move(tokens);
}

} // namespace binding
