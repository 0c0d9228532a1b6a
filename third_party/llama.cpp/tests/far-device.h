// A device like a GPU for machines that have none: its memory cannot be read or written by the program, and what it is
// told to compute is computed when somebody waits for it, and not before. Code that takes the address of a tensor on it
// for one of its own crashes, and code that does not wait reads what was there before.

#pragma once

#include "ggml-backend.h"

#include <cstddef>

// The device, for llama_model_params.devices. It computes on the CPU, with one thread.
ggml_backend_dev_t far_device();

// What happened on the device since the program began.
struct far_counts {
    size_t nodes        = 0; // computed
    size_t rows_read    = 0; // reads from tensors of KV caches
    size_t rows_written = 0; // writes to these
};

far_counts far_counted();

// Throws std::runtime_error if the device does not do what is said above.
void far_check();
