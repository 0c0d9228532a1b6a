// What a federated forward pass has to keep to, checked through llama-fed.h on any model: the oracle (every layer a
// sync layer, f16 rows: the same bits as one process), and the rotation of K rows to other positions.

#pragma once

#include "llama.h"

#include <cstdint>
#include <string>

enum class fed_rotation {
    ROTATES,     // K rows can be moved, and are then what an evaluation at the other position gives
    INDEPENDENT, // the same, and they need not be changed for it: no layer has a RoPE
    INPLACE,     // llama-fed.h refuses to move them
};

struct fed_findings {
    fed_rotation rotation       = fed_rotation::INPLACE;
    double       rotation_error = 0.0; // max |moved - in place| over max |in place|, of K or V of the worst layer
};

// Why llama-fed.h does not take the model; empty when it does.
std::string fed_refusal(llama_model * model);

// All that follows runs on one thread with random token ids below n_vocab, and throws std::runtime_error with one
// sentence when something fails.

// llama.cpp alone evaluates what the checks evaluate.
void fed_run_centralised(llama_model * model, uint32_t n_vocab);

// All checks of a model that is not refused.
fed_findings fed_check(llama_model * model, uint32_t n_vocab);
