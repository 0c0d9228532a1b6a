// Prints the vectors of fedkv's row codec, made by ggml itself: its reference quantisers, its dequantisers and its
// validation of row data. README.md says how to compile and run it, and what the output means.

#include <cfloat>
#include <cinttypes>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "ggml-quants.h"
#include "ggml.h"

namespace {

using row = std::vector<float>; // [elements], a multiple of 32

struct named_row {
    std::string name;
    row         values;
};

struct named_bytes {
    std::string          name;
    std::vector<uint8_t> bytes; // one row in the layout of its type
};

struct wire_type {
    ggml_type    type;
    const char * name;
    size_t       elements; // of one group
    size_t       bytes;    // of one group
};

const wire_type wire_types[] = {
    { GGML_TYPE_F16, "f16", 1, 2 },
    { GGML_TYPE_Q8_0, "q8_0", QK8_0, sizeof(block_q8_0) },
    { GGML_TYPE_Q5_1, "q5_1", QK5_1, sizeof(block_q5_1) },
    { GGML_TYPE_Q4_1, "q4_1", QK4_1, sizeof(block_q4_1) },
    { GGML_TYPE_Q4_0, "q4_0", QK4_0, sizeof(block_q4_0) },
};

// The same numbers on every machine: PCG-XSH-RR.
struct random_source {
    uint64_t state = 0x853c49e6748fea9bULL;

    uint32_t next() {
        const uint64_t old = state;
        state              = old * 6364136223846793005ULL + 1442695040888963407ULL;
        const uint32_t x   = (uint32_t) (((old >> 18) ^ old) >> 27);
        const uint32_t rot = (uint32_t) (old >> 59);
        return (x >> rot) | (x << ((32 - rot) & 31));
    }

    float uniform() { return (float) (next() >> 8) * 0x1p-24f; } // [0, 1)

    // Roughly normal: the sum of twelve uniform numbers, centred.
    float normal() {
        float sum = -6.0f;
        for (int i = 0; i < 12; i++) {
            sum += uniform();
        }
        return sum;
    }
};

row filled(float value) {
    return row(32, value);
}

// 32 values: those given, then the last one again.
row padded(row values) {
    values.resize(32, values.back());
    return values;
}

// first, first + step, … with extra in front, 32 values.
row ramp(float extra, float first, float step) {
    row values = { extra };
    for (int i = 0; i < 31; i++) {
        values.push_back(first + step * (float) i);
    }
    return values;
}

std::vector<named_row> finite_rows() {
    std::vector<named_row> rows;
    random_source          random;

    for (int i = 0; i < 6; i++) {
        row values(64);
        for (float & v : values) {
            v = random.normal() * (0.05f * (float) (1 << i));
        }
        rows.push_back({ "ordinary " + std::to_string(i), values });
    }
    for (int i = 0; i < 4; i++) {
        row values(64);
        for (float & v : values) {
            v = random.normal();
        }
        values[random.next() % 64] += 100.0f;
        values[random.next() % 64] -= 60.0f;
        rows.push_back({ "channel outliers " + std::to_string(i), values });
    }
    for (int i = 0; i < 4; i++) {
        row values(32);
        for (float & v : values) {
            v = 1e-3f * random.normal();
        }
        const float huge[]         = { 10000.0f, -10000.0f, 60000.0f, -60000.0f };
        values[random.next() % 32] = huge[i];
        rows.push_back({ "one huge outlier " + std::to_string(i), values });
    }

    rows.push_back({ "zeros", filled(0.0f) });
    rows.push_back({ "negative zeros", filled(-0.0f) });
    rows.push_back({ "zeros of both signs", padded({ -0.0f, 0.0f, -0.0f, 0.0f }) });
    rows.push_back({ "zeros of both signs, positive first", padded({ 0.0f, -0.0f, 0.0f, -0.0f }) });
    rows.push_back({ "one value among zeros", padded({ 0.0f, 0.0f, 1.5f, 0.0f }) });
    rows.push_back({ "constant", filled(0.7f) });
    rows.push_back({ "negative constant", filled(-3.3f) });
    rows.push_back({ "equal magnitudes, positive first", padded({ 5.0f, -5.0f, 1.0f, -1.0f, 0.5f }) });
    rows.push_back({ "equal magnitudes, negative first", padded({ -5.0f, 5.0f, 1.0f, -1.0f, 0.5f }) });

    rows.push_back({ "ties of q8_0", ramp(127.0f, -15.5f, 1.0f) });
    rows.push_back({ "ties of q8_0, odd", ramp(-127.0f, 96.5f, 1.0f) });
    rows.push_back({ "ties of q4_0", ramp(-8.0f, -7.5f, 0.5f) });
    rows.push_back({ "ties of q4_0, scale negative", ramp(8.0f, -7.5f, 0.5f) });
    rows.push_back({ "ties of q4_1", ramp(15.0f, 0.0f, 0.5f) });
    rows.push_back({ "ties of q5_1", ramp(31.0f, 0.0f, 1.0f) });
    rows.push_back({ "ties of q5_1, halves", ramp(31.0f, 0.5f, 0.9375f) });
    rows.push_back({ "just below ties", ramp(127.0f, std::nextafter(-15.5f, 0.0f), 1.0f) });

    rows.push_back(
        { "ties of float16", padded({ 1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f, -1.0f - 0x1p-11f, 2049.0f, 2051.0f,
                                      -2049.0f, 4098.0f, 4102.0f, 0x1p-25f, 3 * 0x1p-25f, -0x1p-25f, 5 * 0x1p-25f,
                                      0x1.ffcp-15f, 0x1.ffep-15f, 0x1.fffp-15f, 65503.0f, 65519.0f, 1.0f }) });
    rows.push_back(
        { "float16 beside ties", padded({ std::nextafter(1.0f + 0x1p-11f, 2.0f), std::nextafter(1.0f + 0x1p-11f, 0.0f),
                                          std::nextafter(0x1p-25f, 1.0f), std::nextafter(0x1p-25f, 0.0f),
                                          std::nextafter(2049.0f, 4e3f), std::nextafter(65520.0f, 0.0f), 0.0f }) });
    rows.push_back({ "largest float16", padded({ 65504.0f, -65504.0f, 65504.0f, 1.0f }) });
    rows.push_back({ "beyond float16", padded({ 65520.0f, -65520.0f, 70000.0f, -1e6f, 3.0f }) });
    rows.push_back(
        { "subnormal float16", padded({ 6e-5f, -6e-5f, 1e-6f, 5.9604645e-8f, -5.9604645e-8f, 2e-8f, 0.0f }) });
    rows.push_back({ "scale subnormal in float16", padded({ 1e-5f, -2e-5f, 3e-6f, 1e-5f, -7e-6f }) });
    rows.push_back({ "scale zero in float16", padded({ 1e-9f, -2e-9f, 3e-10f, 1e-9f, -7e-10f }) });
    rows.push_back(
        { "subnormal float32", padded({ 1e-40f, -1e-40f, 3e-41f, FLT_TRUE_MIN, -FLT_TRUE_MIN, 0.0f, 2e-39f }) });
    rows.push_back({ "smallest float32", filled(FLT_TRUE_MIN) });
    rows.push_back({ "smallest normal float32", padded({ FLT_MIN, -FLT_MIN, 0.5f * FLT_MIN, 0.0f }) });
    rows.push_back({ "inverse of scale barely finite", padded({ 5e-37f, -2e-37f, 1e-37f, 0.0f }) });
    rows.push_back({ "largest float32", padded({ FLT_MAX, 1.0f, -FLT_MAX, 0.0f }) });
    rows.push_back({ "largest float32, one sign", padded({ FLT_MAX, 0.5f * FLT_MAX, 0.0f }) });
    return rows;
}

std::vector<named_row> broken_rows() {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float inf = std::numeric_limits<float>::infinity();

    std::vector<named_row> rows;
    rows.push_back({ "nan first", padded({ nan, 1.0f, -2.0f, 0.5f }) });
    row last    = padded({ 1.0f, -2.0f, 0.5f });
    last.back() = nan;
    rows.push_back({ "nan last", last });
    rows.push_back({ "nan among zeros", padded({ 0.0f, nan, 0.0f }) });
    rows.push_back({ "nans", filled(nan) });
    rows.push_back({ "infinity", padded({ 1.0f, inf, -1.0f, 0.0f }) });
    rows.push_back({ "negative infinity", padded({ 1.0f, -inf, -1.0f, 0.0f }) });
    rows.push_back({ "both infinities", padded({ inf, -inf, 0.0f }) });
    rows.push_back({ "infinities", filled(inf) });
    rows.push_back({ "nan and infinity", padded({ inf, nan, 1.0f }) });
    return rows;
}

std::vector<uint8_t> encode(const wire_type & t, const row & values) {
    const int64_t        k = (int64_t) values.size();
    std::vector<uint8_t> out(values.size() / t.elements * t.bytes);
    switch (t.type) {
        case GGML_TYPE_F16:  ggml_fp32_to_fp16_row(values.data(), (ggml_fp16_t *) out.data(), k); break;
        case GGML_TYPE_Q8_0: quantize_row_q8_0_ref(values.data(), (block_q8_0 *) out.data(), k); break;
        case GGML_TYPE_Q5_1: quantize_row_q5_1_ref(values.data(), (block_q5_1 *) out.data(), k); break;
        case GGML_TYPE_Q4_1: quantize_row_q4_1_ref(values.data(), (block_q4_1 *) out.data(), k); break;
        default:             quantize_row_q4_0_ref(values.data(), (block_q4_0 *) out.data(), k); break;
    }
    return out;
}

row decode(const wire_type & t, const std::vector<uint8_t> & bytes) {
    row           out(bytes.size() / t.bytes * t.elements);
    const int64_t k = (int64_t) out.size();
    switch (t.type) {
        case GGML_TYPE_F16:  ggml_fp16_to_fp32_row((const ggml_fp16_t *) bytes.data(), out.data(), k); break;
        case GGML_TYPE_Q8_0: dequantize_row_q8_0((const block_q8_0 *) bytes.data(), out.data(), k); break;
        case GGML_TYPE_Q5_1: dequantize_row_q5_1((const block_q5_1 *) bytes.data(), out.data(), k); break;
        case GGML_TYPE_Q4_1: dequantize_row_q4_1((const block_q4_1 *) bytes.data(), out.data(), k); break;
        default:             dequantize_row_q4_0((const block_q4_0 *) bytes.data(), out.data(), k); break;
    }
    return out;
}

// Rows that no encoder makes: any codes under scales (and minima) of every kind.
std::vector<named_bytes> foreign_rows(const wire_type & t) {
    const uint16_t halves[] = { 0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0xbc00, 0x3555, 0x5bff, 0x5fff, 0x6000,
                                0xe000, 0x6fff, 0x7000, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff };

    std::vector<named_bytes> rows;
    random_source            random;
    for (const uint16_t scale : halves) {
        const size_t n_halves = t.type == GGML_TYPE_Q4_1 || t.type == GGML_TYPE_Q5_1 ? 2 : 1;
        for (const uint16_t least : { (uint16_t) 0x3c00, (uint16_t) 0xf800, (uint16_t) 0x7c00 }) {
            std::vector<uint8_t> bytes(t.elements == 1 ? 64 : t.bytes);
            for (uint8_t & b : bytes) {
                b = (uint8_t) random.next();
            }
            if (t.type == GGML_TYPE_F16) {
                for (size_t i = 1; i < bytes.size(); i += 2) {
                    bytes[i] = (uint8_t) (bytes[i] & 0xbf); // exponents below 16: finite
                }
                memcpy(bytes.data() + random.next() % 32 * 2, &scale, 2);
            } else {
                memcpy(bytes.data(), &scale, 2);
                bytes[2 * n_halves]     = 0x80; // the least code of q8_0
                bytes[2 * n_halves + 1] = 0x7f;
            }
            char name[64];
            snprintf(name, sizeof name, "scale %04x", scale);
            if (n_halves == 2) {
                memcpy(bytes.data() + 2, &least, 2);
                snprintf(name, sizeof name, "scale %04x minimum %04x", scale, least);
            }
            rows.push_back({ name, bytes });
            if (n_halves == 1) {
                break;
            }
        }
    }
    return rows;
}

void print_floats(const char * key, const row & values) {
    printf("\"%s\":\"", key);
    for (const float v : values) {
        uint32_t bits;
        memcpy(&bits, &v, 4);
        printf("%08" PRIx32, bits);
    }
    printf("\"");
}

void print_bytes(const wire_type & t, const std::vector<uint8_t> & bytes) {
    printf("\"type\":\"%s\",\"bytes\":\"", t.name);
    for (const uint8_t b : bytes) {
        printf("%02x", b);
    }
    printf("\",\"valid\":%s", ggml_validate_row_data(t.type, bytes.data(), bytes.size()) ? "true" : "false");
}

} // namespace

int main() {
    for (const named_row & r : finite_rows()) {
        printf("{\"kind\":\"row\",\"name\":\"%s\",", r.name.c_str());
        print_floats("values", r.values);
        printf("}\n");
        for (const wire_type & t : wire_types) {
            const std::vector<uint8_t> bytes = encode(t, r.values);
            printf("{\"kind\":\"encode\",\"name\":\"%s\",", r.name.c_str());
            print_bytes(t, bytes);
            printf(",");
            print_floats("decoded", decode(t, bytes));
            printf("}\n");
        }
    }
    for (const named_row & r : broken_rows()) {
        printf("{\"kind\":\"broken\",\"name\":\"%s\",", r.name.c_str());
        print_floats("values", r.values);
        printf("}\n");
    }
    for (const wire_type & t : wire_types) {
        for (const named_bytes & r : foreign_rows(t)) {
            printf("{\"kind\":\"decode\",\"name\":\"%s\",", r.name.c_str());
            print_bytes(t, r.bytes);
            printf(",");
            print_floats("decoded", decode(t, r.bytes));
            printf("}\n");
        }
    }
    return 0;
}
