// Written with the vector extensions of GCC and Clang, eight floats at a time: one AVX2 register, or a pair of SSE's or
// NEON's. Nothing of the C++ library that is a template may be used here: the linker keeps one instance of those, and it
// could be the one with AVX2.

#include "llama-fed-codec.h"

#include "ggml.h"

#include <math.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

typedef float    f32x8 __attribute__((vector_size(32)));
typedef int32_t  i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef float    f32x4 __attribute__((vector_size(16)));
typedef double   f64x4 __attribute__((vector_size(32)));
typedef uint8_t  u8x8 __attribute__((vector_size(8)));
typedef int8_t   i8x8 __attribute__((vector_size(8)));

#define FED_INLINE static inline __attribute__((always_inline))

constexpr size_t   W         = 8;             // lanes
constexpr size_t   N         = FED_BLOCK / W; // vectors in a block
constexpr int32_t  MAGNITUDE = 0x7fffffff;    // of a float's bits
constexpr int32_t  INFINITE  = 0x7f800000;    // bits of what is not finite are not less
constexpr uint16_t HALF_NAN  = 0x7e00;

template <typename V> FED_INLINE V load(const void * p) {
    V v;
    memcpy(&v, p, sizeof(v));
    return v;
}

template <typename V> FED_INLINE void store(void * p, V v) {
    memcpy(p, &v, sizeof(v));
}

FED_INLINE f32x8 all(float x) {
    return f32x8{ x, x, x, x, x, x, x, x };
}

FED_INLINE i32x8 magnitude(f32x8 x) {
    return (i32x8) x & MAGNITUDE;
}

FED_INLINE i32x8 larger(i32x8 a, i32x8 b) {
#if defined(__AVX2__)
    return (i32x8) _mm256_max_epi32((__m256i) a, (__m256i) b);
#else
    return a > b ? a : b;
#endif
}

FED_INLINE f32x8 larger(f32x8 a, f32x8 b) {
#if defined(__AVX2__)
    return (f32x8) _mm256_max_ps((__m256) a, (__m256) b);
#else
    return a > b ? a : b;
#endif
}

// the largest of eight lanes
template <typename V> FED_INLINE auto most(V v) -> decltype(v[0] + 0) {
    v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    v = larger(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
    return v[0];
}

FED_INLINE i32x8 bits_or(i32x8 v) {
    v |= __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
    v |= __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    return v | __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
}

FED_INLINE bool any(i32x8 v) {
#if defined(__AVX2__)
    return !_mm256_testz_si256((__m256i) v, (__m256i) v);
#else
    return bits_or(v)[0] != 0;
#endif
}

FED_INLINE float as_float(int32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

// drops the fraction
FED_INLINE i32x8 truncate(f32x8 x) {
    return __builtin_convertvector(x, i32x8);
}

FED_INLINE f32x8 from_half(const uint8_t * p) {
#if defined(__F16C__)
    return (f32x8) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    const float16x8_t h = load<float16x8_t>(p);
    f32x8             v;
    const float32x4_t half[2] = { vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h) };
    memcpy(&v, half, sizeof(v));
    return v;
#else
    ggml_fp16_t h[W];
    float       v[W];
    memcpy(h, p, sizeof(h));
    ggml_fp16_to_fp32_row(h, v, W);
    return load<f32x8>(v);
#endif
}

FED_INLINE void to_half(f32x8 v, uint8_t * p) {
#if defined(__F16C__)
    _mm_storeu_si128((__m128i *) p, _mm256_cvtps_ph((__m256) v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__ARM_NEON) && defined(__aarch64__)
    float32x4_t half[2];
    memcpy(half, &v, sizeof(v));
    store(p, vcvt_high_f16_f32(vcvt_f16_f32(half[0]), half[1]));
#else
    float       x[W];
    ggml_fp16_t h[W];
    store(x, v);
    ggml_fp32_to_fp16_row(x, h, W);
    memcpy(p, h, sizeof(h));
#endif
}

FED_INLINE void put_half(uint8_t * p, float x) {
#if defined(__F16C__)
    const uint16_t h = x == x ? _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT) : HALF_NAN;
#else
    const ggml_fp16_t h = ggml_fp32_to_fp16(x);
#endif
    memcpy(p, &h, sizeof(h));
}

FED_INLINE float get_half(const uint8_t * p) {
#if defined(__F16C__)
    return _cvtsh_ss(load<uint16_t>(p));
#else
    return ggml_fp16_to_fp32(load<ggml_fp16_t>(p));
#endif
}

// one group of 32 elements
struct elements {
    f32x8 x[N];

    FED_INLINE elements of(const float * p) {
        elements g;
        for (size_t i = 0; i < N; ++i) {
            g.x[i] = load<f32x8>(p + i * W);
        }
        return g;
    }

    // bits of the largest magnitude; those of a NaN are larger than those of infinity
    inline __attribute__((always_inline)) int32_t largest() const {
        i32x8 m = magnitude(x[0]);
        for (size_t i = 1; i < N; ++i) {
            const i32x8 a = magnitude(x[i]);
            m             = larger(m, a);
        }
        return most(m);
    }
};

// a group that no receiver accepts
FED_INLINE void put_broken(uint8_t * out, size_t size) {
    memset(out, 0, size);
    store(out, HALF_NAN);
}

// 1/d, and 0 for a group of zeros. Codes stay in range wherever it is finite; where it is not, the scale is 0 in f16.
FED_INLINE float inverse(float d) {
    return d != 0.0f ? 1.0f / d : 0.0f;
}

// the largest magnitude among halves, one every step bytes
FED_INLINE float largest_half(const uint8_t * in, size_t n, size_t step) {
    uint16_t bits = 0;
    for (size_t i = 0; i < n; ++i) {
        const uint16_t h = load<uint16_t>(in + i * step) & 0x7fff;
        bits             = h > bits ? h : bits;
    }
    return ggml_fp16_to_fp32(bits);
}

//
// f16
//

void f16_encode(const float * x, uint8_t * out, size_t n) {
    for (; n >= W; n -= W, x += W, out += 2 * W) {
        to_half(load<f32x8>(x), out);
    }
    for (; n > 0; --n, ++x, out += 2) {
        put_half(out, *x);
    }
}

void f16_decode(const uint8_t * in, float * x, size_t n) {
    for (; n >= W; n -= W, x += W, in += 2 * W) {
        store(x, from_half(in));
    }
    for (; n > 0; --n, ++x, in += 2) {
        *x = get_half(in);
    }
}

float f16_bound(const uint8_t * in, size_t n) {
    return largest_half(in, n, 2);
}

//
// q8_0: scale, 32 signed bytes
//

constexpr size_t Q8_0 = 2 + 32;

// 32 codes from -128 to 127
FED_INLINE void put_bytes(uint8_t * out, const i32x8 * code) {
#if defined(__AVX2__)
    const __m256i low   = _mm256_packs_epi32((__m256i) code[0], (__m256i) code[1]);
    const __m256i high  = _mm256_packs_epi32((__m256i) code[2], (__m256i) code[3]);
    const i32x8   order = { 0, 4, 1, 5, 2, 6, 3, 7 };
    store(out, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), (__m256i) order));
#else
    for (size_t i = 0; i < N; ++i) {
        store(out + i * W, __builtin_convertvector(code[i], i8x8));
    }
#endif
}

void q8_0_encode(const float * x, uint8_t * out, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, out += Q8_0) {
        const elements g    = elements::of(x);
        const int32_t  bits = g.largest();
        if (bits >= INFINITE) {
            put_broken(out, Q8_0);
            continue;
        }
        const float d   = as_float(bits) / 127.0f;
        const float inv = inverse(d);
        put_half(out, d);
        if (!isfinite(inv)) {
            memset(out + 2, 0, Q8_0 - 2);
            continue;
        }
        i32x8 codes[N];
        for (size_t i = 0; i < N; ++i) {
            // halves are rounded away from zero
            const f32x8 v    = g.x[i] * inv;
            i32x8       code = truncate(v);
            const f32x8 rest = v - __builtin_convertvector(code, f32x8);
            code             = code - (rest >= 0.5f) + (rest <= -0.5f);
            codes[i]         = code;
        }
        put_bytes(out + 2, codes);
    }
}

void q8_0_decode(const uint8_t * in, float * x, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, in += Q8_0) {
        const float d = get_half(in);
        for (size_t i = 0; i < N; ++i) {
            const i32x8 code = __builtin_convertvector(load<i8x8>(in + 2 + i * W), i32x8);
            store(x + i * W, __builtin_convertvector(code, f32x8) * d);
        }
    }
}

float q8_0_bound(const uint8_t * in, size_t n) {
    return 128.0f * largest_half(in, n / FED_BLOCK, Q8_0);
}

//
// four bits: element i is in the low half of byte i, element 16 + i in the high half
//

FED_INLINE void put_nibbles(uint8_t * out, const i32x8 * code) {
    static_assert(N == 4);
    const i32x8 both[2] = { code[0] | code[2] << 4, code[1] | code[3] << 4 };
#if defined(__AVX2__)
    const __m256i words = _mm256_packus_epi32((__m256i) both[0], (__m256i) both[1]);
    const i32x8   order = { 0, 4, 1, 5, 0, 4, 1, 5 };
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, words), (__m256i) order);
    store(out, _mm256_castsi256_si128(bytes));
#else
    store(out, __builtin_convertvector(both[0], u8x8));
    store(out + W, __builtin_convertvector(both[1], u8x8));
#endif
}

FED_INLINE void get_nibbles(const uint8_t * in, i32x8 * code) {
    for (size_t i = 0; i < N / 2; ++i) {
        const i32x8 both = __builtin_convertvector(load<u8x8>(in + i * W), i32x8);
        code[i]          = both & 15;
        code[i + N / 2]  = both >> 4;
    }
}

FED_INLINE i32x8 at_most_15(i32x8 code) {
    return -larger(-code, i32x8{ -15, -15, -15, -15, -15, -15, -15, -15 });
}

// q4_0: scale, nibbles; the value of largest magnitude becomes -8

constexpr size_t Q4_0 = 2 + 16;

// the first element with these bits or the same and a sign
FED_INLINE float extreme(const float * x, const elements & g, int32_t bits) {
    i32x8 plus  = {};
    i32x8 minus = {};
    for (size_t i = 0; i < N; ++i) {
        plus |= (i32x8) g.x[i] == bits;
        minus |= (i32x8) g.x[i] == (bits | ~MAGNITUDE);
    }
    if (bits == 0 || !any(minus)) {
        return as_float(bits);
    }
    if (!any(plus)) {
        return -as_float(bits);
    }
    while (fabsf(*x) != as_float(bits)) {
        ++x;
    }
    return *x;
}

void q4_0_encode(const float * x, uint8_t * out, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, out += Q4_0) {
        const elements g    = elements::of(x);
        const int32_t  bits = g.largest();
        if (bits >= INFINITE) {
            put_broken(out, Q4_0);
            continue;
        }
        const float d   = extreme(x, g, bits) / -8.0f;
        const float inv = inverse(d);
        put_half(out, d);
        if (!isfinite(inv)) {
            memset(out + 2, 0, Q4_0 - 2);
            continue;
        }
        i32x8 code[N];
        for (size_t i = 0; i < N; ++i) {
            code[i] = truncate(g.x[i] * inv + 8.5f);
            code[i] = at_most_15(code[i]);
        }
        put_nibbles(out + 2, code);
    }
}

void q4_0_decode(const uint8_t * in, float * x, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, in += Q4_0) {
        const float d = get_half(in);
        i32x8       code[N];
        get_nibbles(in + 2, code);
        for (size_t i = 0; i < N; ++i) {
            store(x + i * W, __builtin_convertvector(code[i] - 8, f32x8) * d);
        }
    }
}

float q4_0_bound(const uint8_t * in, size_t n) {
    return 8.0f * largest_half(in, n / FED_BLOCK, Q4_0);
}

// what q4_1 and q5_1 begin with: the step and the least value of a group

struct span {
    float least;
    float step;
};

FED_INLINE span span_of(const float * x, const elements & g, float steps) {
    f32x8 low  = -g.x[0];
    f32x8 high = g.x[0];
    for (size_t i = 1; i < N; ++i) {
        low  = larger(low, -g.x[i]);
        high = larger(high, g.x[i]);
    }
    float least   = -most(low);
    float largest = most(high);
    if (least == 0.0f) { // the first zero decides the sign
        while (*x != 0.0f) {
            ++x;
        }
        least   = *x;
        largest = largest == 0.0f ? least : largest;
    }
    return { least, (largest - least) / steps };
}

//
// q4_1: step, least value, nibbles
//

constexpr size_t Q4_1 = 4 + 16;

void q4_1_encode(const float * x, uint8_t * out, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, out += Q4_1) {
        const elements g = elements::of(x);
        if (g.largest() >= INFINITE) {
            put_broken(out, Q4_1);
            continue;
        }
        const span  s   = span_of(x, g, 15.0f);
        const float inv = inverse(s.step);
        put_half(out, s.step);
        put_half(out + 2, s.least);
        if (!isfinite(inv)) {
            memset(out + 4, 0, Q4_1 - 4);
            continue;
        }
        i32x8 code[N];
        for (size_t i = 0; i < N; ++i) {
            code[i] = truncate((g.x[i] - s.least) * inv + 0.5f);
            code[i] = at_most_15(code[i]);
        }
        put_nibbles(out + 4, code);
    }
}

void q4_1_decode(const uint8_t * in, float * x, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, in += Q4_1) {
        const float d = get_half(in);
        const float m = get_half(in + 2);
        i32x8       code[N];
        get_nibbles(in + 4, code);
        for (size_t i = 0; i < N; ++i) {
            store(x + i * W, __builtin_convertvector(code[i], f32x8) * d + m);
        }
    }
}

float q4_1_bound(const uint8_t * in, size_t n) {
    return 15.0f * largest_half(in, n / FED_BLOCK, Q4_1) + largest_half(in + 2, n / FED_BLOCK, Q4_1);
}

//
// q5_1: step, least value, the fifth bits (element i at bit i), nibbles
//

constexpr size_t Q5_1 = 8 + 16;

constexpr i32x8 LANE = { 0, 1, 2, 3, 4, 5, 6, 7 };

void q5_1_encode(const float * x, uint8_t * out, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, out += Q5_1) {
        const elements g = elements::of(x);
        if (g.largest() >= INFINITE) {
            put_broken(out, Q5_1);
            continue;
        }
        const span  s   = span_of(x, g, 31.0f);
        const float inv = inverse(s.step);
        put_half(out, s.step);
        put_half(out + 2, s.least);
        if (!isfinite(inv)) {
            memset(out + 4, 0, Q5_1 - 4);
            continue;
        }
        i32x8 code[N];
        i32x8 fifth = {};
        for (size_t i = 0; i < N; ++i) {
            code[i] = truncate((g.x[i] - s.least) * inv + 0.5f);
            fifth |= (code[i] >> 4 & 1) << (LANE + (int32_t) (i * W));
            code[i] &= 15;
        }
        store(out + 4, bits_or(fifth)[0]);
        put_nibbles(out + 8, code);
    }
}

void q5_1_decode(const uint8_t * in, float * x, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, in += Q5_1) {
        const float   d     = get_half(in);
        const float   m     = get_half(in + 2);
        const int32_t fifth = load<int32_t>(in + 4);
        i32x8         code[N];
        get_nibbles(in + 8, code);
        for (size_t i = 0; i < N; ++i) {
            const i32x8 bit = fifth >> (LANE + (int32_t) (i * W)) & 1;
            store(x + i * W, __builtin_convertvector(code[i] | bit << 4, f32x8) * d + m);
        }
    }
}

float q5_1_bound(const uint8_t * in, size_t n) {
    return 31.0f * largest_half(in, n / FED_BLOCK, Q5_1) + largest_half(in + 2, n / FED_BLOCK, Q5_1);
}

//
// nf3: scale, 32 codes of 3 bits, packed from the lowest bit of the first byte on. A code is a sign (bit 2) and one of the
// levels that a quantiser of a standard normal distribution has with the least mean square error (Lloyd-Max). Several
// multiples of the group's root mean square are tried as its spread, each with the scale that has the least square error
// for the codes it gives. Sums go element by element, so eight groups are encoded side by side, one in each lane.
//

constexpr size_t NF3       = 2 + 32 * 3 / 8;
constexpr size_t NF3_TRIES = 6;

constexpr float NF3_LEVEL[4]          = { 0.2451f, 0.7560f, 1.3440f, 2.1520f };
constexpr float NF3_EDGE[3]           = { 0.50055f, 1.0500f, 1.7480f }; // midway between two levels
constexpr float NF3_SPREAD[NF3_TRIES] = { 0.75f, 0.85f, 0.95f, 1.05f, 1.15f, 1.25f };

// the edges between levels of a spread, in each lane
struct nf3_edges {
    f32x8 at[3];

    FED_INLINE nf3_edges of(f32x8 spread) {
        return { { NF3_EDGE[0] * spread, NF3_EDGE[1] * spread, NF3_EDGE[2] * spread } };
    }
};

// the level that is nearest to a magnitude
FED_INLINE f32x8 nf3_level(f32x8 a, const nf3_edges & edges) {
    // comparisons give -1
#if defined(__AVX2__)
    const i32x8 above  = (a > edges.at[0]) + (a > edges.at[1]) + (a > edges.at[2]);
    const f32x8 levels = { NF3_LEVEL[0], 0.0f, 0.0f, 0.0f, 0.0f, NF3_LEVEL[3], NF3_LEVEL[2], NF3_LEVEL[1] };
    return (f32x8) _mm256_permutevar8x32_ps((__m256) levels, (__m256i) above); // the lowest three bits count
#else
    f32x8 level = a > edges.at[0] ? all(NF3_LEVEL[1]) : all(NF3_LEVEL[0]);
    level       = a > edges.at[1] ? all(NF3_LEVEL[2]) : level;
    return a > edges.at[2] ? all(NF3_LEVEL[3]) : level;
#endif
}

// x[i] is element i of eight groups; their blocks go to out
FED_INLINE void nf3_encode_lanes(const f32x8 * x, uint8_t * out, size_t lanes) {
    f32x8 sum = {};
    for (size_t i = 0; i < FED_BLOCK; ++i) {
        sum += x[i] * x[i];
    }
    f32x8 rms = sum / (float) FED_BLOCK;
    for (size_t i = 0; i < W; ++i) {
        rms[i] = sqrtf(rms[i]);
    }
    f32x8 scale  = {};
    f32x8 fit    = {};
    f32x8 spread = {};
    for (size_t t = 0; t < NF3_TRIES; t += 2) {
        // two at a time: additions of one go on while those of the other wait
        nf3_edges edges[2];
        f32x8     tried[2];
        f32x8     num[2] = {};
        f32x8     den[2] = {};
        for (size_t k = 0; k < 2; ++k) {
            tried[k] = NF3_SPREAD[t + k] * rms;
            edges[k] = nf3_edges::of(tried[k]);
        }
        for (size_t i = 0; i < FED_BLOCK; ++i) {
            const f32x8 a = (f32x8) magnitude(x[i]);
            for (size_t k = 0; k < 2; ++k) {
                const f32x8 level = nf3_level(a, edges[k]);
                num[k] += a * level;
                den[k] += level * level;
            }
        }
        for (size_t k = 0; k < 2; ++k) {
            // the error is sum - num^2 / den; a NaN stays, so that the receiver refuses it
            const f32x8 found  = num[k] / den[k];
            const f32x8 gain   = found * num[k];
            const i32x8 better = t + k == 0 ? i32x8{} == 0 : gain > fit;
            scale              = better ? found : scale;
            fit                = better ? gain : fit;
            spread             = better ? tried[k] : spread;
        }
    }

    const nf3_edges edges = nf3_edges::of(spread);
    u32x8           words[4]; // of eight codes, 24 bits
    for (size_t w = 0; w < 4; ++w) {
        i32x8 word = {};
        for (size_t j = 0; j < 8; ++j) {
            const f32x8 v = x[8 * w + j];
            const f32x8 a = (f32x8) magnitude(v);
            // comparisons give -1
            i32x8       code = -((a > edges.at[0]) + (a > edges.at[1]) + (a > edges.at[2]));
            code |= (v < 0.0f) & 4;
            word |= code << (int32_t) (3 * j);
        }
        words[w] = (u32x8) word;
    }
    for (size_t lane = 0; lane < lanes; ++lane, out += NF3) {
        put_half(out, scale[lane]);
        for (size_t w = 0; w < 4; ++w) {
            const uint32_t word = words[w][lane];
            const uint8_t  b[3] = { (uint8_t) word, (uint8_t) (word >> 8), (uint8_t) (word >> 16) };
            memcpy(out + 2 + 3 * w, b, sizeof(b));
        }
    }
}

// element i of eight groups to x[i]
FED_INLINE void transpose(const float * from, f32x8 * x) {
    for (size_t i = 0; i < FED_BLOCK; i += W) {
        f32x8 r[W];
        for (size_t g = 0; g < W; ++g) {
            r[g] = load<f32x8>(from + g * FED_BLOCK + i);
        }
        f32x8 s[W];
        for (size_t g = 0; g < W; g += 2) {
            s[g]     = __builtin_shufflevector(r[g], r[g + 1], 0, 8, 2, 10, 4, 12, 6, 14);
            s[g + 1] = __builtin_shufflevector(r[g], r[g + 1], 1, 9, 3, 11, 5, 13, 7, 15);
        }
        for (size_t g = 0; g < W; g += 4) {
            for (size_t h = g; h < g + 2; ++h) {
                r[h]     = __builtin_shufflevector(s[h], s[h + 2], 0, 1, 8, 9, 4, 5, 12, 13);
                r[h + 2] = __builtin_shufflevector(s[h], s[h + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            }
        }
        for (size_t g = 0; g < W / 2; ++g) {
            x[i + g]         = __builtin_shufflevector(r[g], r[g + 4], 0, 1, 2, 3, 8, 9, 10, 11);
            x[i + g + W / 2] = __builtin_shufflevector(r[g], r[g + 4], 4, 5, 6, 7, 12, 13, 14, 15);
        }
    }
}

void nf3_encode(const float * x, uint8_t * out, size_t n) {
    f32x8 lanes[FED_BLOCK];
    for (; n >= W * FED_BLOCK; n -= W * FED_BLOCK, x += W * FED_BLOCK, out += W * NF3) {
        transpose(x, lanes);
        nf3_encode_lanes(lanes, out, W);
    }
    if (n > 0) {
        float rest[W * FED_BLOCK] = {};
        memcpy(rest, x, n * sizeof(*x));
        transpose(rest, lanes);
        nf3_encode_lanes(lanes, out, n / FED_BLOCK);
    }
}

void nf3_decode(const uint8_t * in, float * x, size_t n) {
    for (; n > 0; n -= FED_BLOCK, x += FED_BLOCK, in += NF3) {
        const float scale = get_half(in);
        float       value[8];
        for (size_t i = 0; i < 4; ++i) {
            value[i]     = NF3_LEVEL[i] * scale;
            value[i + 4] = -value[i];
        }
        for (size_t w = 0; w < 4; ++w) {
            const uint8_t * b    = in + 2 + 3 * w;
            const uint32_t  word = (uint32_t) b[0] | (uint32_t) b[1] << 8 | (uint32_t) b[2] << 16;
            for (size_t j = 0; j < 8; ++j) {
                x[8 * w + j] = value[word >> (3 * j) & 7];
            }
        }
    }
}

float nf3_bound(const uint8_t * in, size_t n) {
    return NF3_LEVEL[3] * largest_half(in, n / FED_BLOCK, NF3);
}

//
// bases and positions
//

// sums and differences of elements whose numbers differ by less than a vector
FED_INLINE f32x8 butterflies(f32x8 v) {
    v = __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6) + v * f32x8{ 1, -1, 1, -1, 1, -1, 1, -1 };
    v = __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5) + v * f32x8{ 1, 1, -1, -1, 1, 1, -1, -1 };
    return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3) + v * f32x8{ 1, 1, 1, 1, -1, -1, -1, -1 };
}

template <size_t GROUP> FED_INLINE void hadamard_groups(float * x, size_t n) {
    const float scale = (float) (1.0 / sqrt((double) GROUP));
    for (float * end = x + n; x != end; x += GROUP) {
        f32x8 v[GROUP / W];
        for (size_t i = 0; i < GROUP / W; ++i) {
            v[i] = butterflies(load<f32x8>(x + i * W));
        }
        for (size_t h = 1; h < GROUP / W; h *= 2) {
            for (size_t i = 0; i < GROUP / W; i += 2 * h) {
                for (size_t j = i; j < i + h; ++j) {
                    const f32x8 a = v[j];
                    v[j]          = a + v[j + h];
                    v[j + h]      = a - v[j + h];
                }
            }
        }
        for (size_t i = 0; i < GROUP / W; ++i) {
            store(x + i * W, v[i] * scale);
        }
    }
}

void hadamard(float * x, size_t n, size_t group) {
    switch (group) {
        case 32:  hadamard_groups<32>(x, n); break;
        case 64:  hadamard_groups<64>(x, n); break;
        case 128: hadamard_groups<128>(x, n); break;
    }
}

FED_INLINE void rotate_pair(float * a, float * b, float cos, float sin) {
    const float x = *a;
    const float y = *b;
    *a            = x * cos - y * sin;
    *b            = x * sin + y * cos;
}

void rotate_halves(float * x, size_t n_head, size_t head_dim, size_t n_dims, const float * turn, float sign) {
    const size_t half = n_dims / 2;
    size_t       i    = 0;
    for (; i + W <= half; i += W) {
        const f32x8 cos = load<f32x8>(turn + i);
        const f32x8 sin = load<f32x8>(turn + half + i) * sign;
        for (float *p = x + i, *end = p + n_head * head_dim; p != end; p += head_dim) {
            const f32x8 a = load<f32x8>(p);
            const f32x8 b = load<f32x8>(p + half);
            store(p, a * cos - b * sin);
            store(p + half, a * sin + b * cos);
        }
    }
    for (; i < half; ++i) {
        for (float *p = x + i, *end = p + n_head * head_dim; p != end; p += head_dim) {
            rotate_pair(p, p + half, turn[i], turn[half + i] * sign);
        }
    }
}

void rotate_neighbours(float * x, size_t n_head, size_t head_dim, size_t n_dims, const float * turn, float sign) {
    size_t i = 0;
    for (; i + W <= n_dims; i += W) {
        const f32x8 both = load<f32x8>(turn + i);
        const f32x8 cos  = __builtin_shufflevector(both, both, 0, 0, 2, 2, 4, 4, 6, 6);
        const f32x8 sin  = __builtin_shufflevector(both, both, 1, 1, 3, 3, 5, 5, 7, 7) *
                           (f32x8{ -1, 1, -1, 1, -1, 1, -1, 1 } * sign);
        for (float *p = x + i, *end = p + n_head * head_dim; p != end; p += head_dim) {
            const f32x8 a = load<f32x8>(p);
            store(p, a * cos + __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6) * sin);
        }
    }
    for (; i < n_dims; i += 2) {
        for (float *p = x + i, *end = p + n_head * head_dim; p != end; p += head_dim) {
            rotate_pair(p, p + 1, turn[i], turn[i + 1] * sign);
        }
    }
}

void rotate(float * x, size_t n_head, size_t head_dim, size_t n_dims, bool halves, const float * turn, float sign) {
    (halves ? rotate_halves : rotate_neighbours)(x, n_head, head_dim, n_dims, turn, sign);
}

void sum(double * sums, const float * x, size_t n) {
    for (; n >= 4; n -= 4, x += 4, sums += 4) {
        store(sums, load<f64x4>(sums) + __builtin_convertvector(load<f32x4>(x), f64x4));
    }
    for (; n > 0; --n) {
        *sums++ += *x++;
    }
}

void add(float * x, const float * y, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        x[i] += y[i];
    }
}

void subtract(float * x, const float * y, size_t n) {
    for (size_t i = 0; i < n; ++i) {
        x[i] -= y[i];
    }
}

bool finite(const float * x, size_t n) {
    int32_t wrong = 0;
    for (size_t i = 0; i < n; ++i) {
        wrong |= !(fabsf(x[i]) < FED_F16_INF); // true for NaN
    }
    return !wrong;
}

constexpr llama_fed_codec codec = {
    { 1, 2, f16_encode, f16_decode, f16_bound },
    { FED_BLOCK, Q8_0, q8_0_encode, q8_0_decode, q8_0_bound },
    { FED_BLOCK, Q5_1, q5_1_encode, q5_1_decode, q5_1_bound },
    { FED_BLOCK, Q4_1, q4_1_encode, q4_1_decode, q4_1_bound },
    { FED_BLOCK, Q4_0, q4_0_encode, q4_0_decode, q4_0_bound },
    { FED_BLOCK, NF3, nf3_encode, nf3_decode, nf3_bound },
    hadamard,
    rotate,
    sum,
    add,
    subtract,
    finite,
};

} // namespace

#ifdef FED_CODEC_AVX2

const llama_fed_codec * llama_fed_codec_avx2() {
    return &codec;
}

#else

const llama_fed_codec & llama_fed_codec_any() {
    return codec;
}

const llama_fed_codec & llama_fed_codec_best() {
#if defined(__x86_64__)
    static const bool fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    if (fast && llama_fed_codec_avx2()) {
        return *llama_fed_codec_avx2();
    }
#endif
    return codec;
}

#endif
