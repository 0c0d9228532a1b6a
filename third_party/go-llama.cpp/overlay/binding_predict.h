// Generating text from a prompt.

#pragma once

#include "binding_model.h"

#include <functional>
#include <string>
#include <vector>

namespace binding {

// What binding_request holds, as texts of C++.
struct request {
    std::string              prompt;
    std::string              negative_prompt;
    std::string              grammar;    // GBNF, empty: none
    std::string              logit_bias; // "token+bias" or "token-bias", several separated by commas
    std::string              cache_path; // prompt cache, empty: none
    std::vector<std::string> stops;

    int64_t seed; // negative: the model's

    int tokens; // most to generate
    int threads;
    int batch;
    int keep;  // tokens of the prompt that survive when the context is full; negative: all
    int draft; // tokens that the draft model guesses at once; 0: 8
    int top_k;
    int penalty_last_n; // negative: the whole context
    int mirostat;

    float top_p;
    float typical_p;
    float tail_free_z;
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
};

struct statistics {
    size_t prompt      = 0; // tokens of the prompt
    size_t reused      = 0; // of them, found in the cache
    size_t generated   = 0;
    size_t drafted     = 0; // guessed by the draft model
    size_t accepted    = 0; // of them, right
    double prompt_ms   = 0;
    double generate_ms = 0;
};

// Called with every piece of text; false ends the generation and leaves that piece out of the result.
using piece_callback = std::function<bool(const std::string &)>;

std::string predict(model & m, const request & r, const piece_callback & on_piece, statistics & stats);

std::string speculate(model & target, model & draft, const request & r, const piece_callback & on_piece,
                      statistics & stats);

// Evaluates the prompt and leaves it in the cache.
void evaluate(model & m, const request & r);

} // namespace binding
