// The arithmetic of rows: what is done to each element between an f16 cache and the wire. No tensors, cells or positions.
//
// The same source is compiled for any CPU of the architecture and, on x86-64, once more for those with AVX2 and F16C;
// llama_fed_codec_best chooses when it is first called. Either gives the same bits: every sum has one order, and nothing
// is fused. Formats are ggml's (ggml-quants.c, the reference routines) and NF3, which fedkv/nf3.go describes.
//
// n counts elements; where there are scales it is a multiple of FED_BLOCK. Buffers do not overlap and need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

// elements that have a scale in common, in every format with scales
static constexpr size_t FED_BLOCK = 32;

// the first magnitude that rounds to infinity in f16
static constexpr float FED_F16_INF = 65520.0f;

struct llama_fed_format {
    size_t group; // elements that have a scale in common: FED_BLOCK, or 1 without scales
    size_t size;  // bytes of a group

    // An element that is not finite makes its group's scale not finite.
    void (*encode)(const float * x, uint8_t * out, size_t n);
    void (*decode)(const uint8_t * in, float * x, size_t n);
    // at least the greatest magnitude of what decode gives; not finite if a scale is not
    float (*bound)(const uint8_t * in, size_t n);
};

struct llama_fed_codec {
    llama_fed_format f16;
    llama_fed_format q8_0;
    llama_fed_format q5_1;
    llama_fed_format q4_1;
    llama_fed_format q4_0;
    llama_fed_format nf3;

    // multiplies groups of `group` elements, a power of two from 32 to 128, by the orthonormal Hadamard matrix in natural
    // order, its own inverse
    void (*hadamard)(float * x, size_t n, size_t group);

    // Rotates the pairs of n_head vectors in x[n_head][head_dim]: pair i is elements (2i, 2i+1), or with halves (i, i +
    // n_dims/2). turn has the same pairs, (cos, sin); sign is 1, or -1 for the other direction.
    void (*rotate)(float * x, size_t n_head, size_t head_dim, size_t n_dims, bool halves, const float * turn,
                   float sign);

    void (*sum)(double * sums, const float * x, size_t n); // sums += x
    void (*add)(float * x, const float * y, size_t n);     // x += y
    void (*subtract)(float * x, const float * y, size_t n);
    // whether all are finite in f16
    bool (*finite)(const float * x, size_t n);
};

const llama_fed_codec & llama_fed_codec_best();
const llama_fed_codec & llama_fed_codec_any();  // runs on every CPU of the architecture
const llama_fed_codec * llama_fed_codec_avx2(); // nullptr where it was not compiled
