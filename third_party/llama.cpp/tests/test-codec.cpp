// Holds the arithmetic of rows (fed/llama-fed-codec.h) to ggml's reference routines, bit for bit, and the code for AVX2 to
// the code for any CPU. NF3 and the Hadamard matrix, which ggml does not have, are held to the Go codec by package llama.

#include "ggml.h"
#include "llama-fed-codec.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

static int failures = 0;

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        printf("test-codec: %s\n", what.c_str());
        ++failures;
    }
}

static bool same(const std::vector<uint8_t> & a, const std::vector<uint8_t> & b) {
    return a == b;
}

static bool same(const std::vector<float> & a, const std::vector<float> & b) {
    return memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

struct format {
    const char *     name;
    llama_fed_format llama_fed_codec::* of;
    ggml_type                           type; // GGML_TYPE_COUNT: not ggml's
};

static const format FORMATS[] = {
    { "f16", &llama_fed_codec::f16, GGML_TYPE_F16 },    { "q8_0", &llama_fed_codec::q8_0, GGML_TYPE_Q8_0 },
    { "q5_1", &llama_fed_codec::q5_1, GGML_TYPE_Q5_1 }, { "q4_1", &llama_fed_codec::q4_1, GGML_TYPE_Q4_1 },
    { "q4_0", &llama_fed_codec::q4_0, GGML_TYPE_Q4_0 }, { "nf3", &llama_fed_codec::nf3, GGML_TYPE_COUNT },
};

static constexpr size_t GROUPS = 11; // more than the lanes of a vector, and not a multiple of them
static constexpr size_t N      = GROUPS * FED_BLOCK;

// rows that hit what is special: zeros of both signs, ties, one value only, far too small and quite large ones
static std::vector<std::vector<float>> samples() {
    std::mt19937                    random(1);
    std::normal_distribution<float> normal;
    std::vector<std::vector<float>> all;
    for (float scale : { 1.0f, 1e-3f, 300.0f, 1e-9f, 1e-42f, 20000.0f }) {
        std::vector<float> x(N);
        for (float & v : x) {
            v = scale * normal(random);
        }
        all.push_back(x);
        // multiples of one step: codes that lie between two
        for (float & v : x) {
            v = scale * 0.5f * std::round(4 * normal(random));
        }
        all.push_back(x);
        for (size_t i = 0; i < N; ++i) {
            x[i] = i % 3 == 0 ? scale : i % 3 == 1 ? -scale : -0.0f;
        }
        all.push_back(x);
        for (size_t i = 0; i < N; ++i) {
            x[i] = i % 5 == 4 ? scale : (i & 1) ? 0.0f : -0.0f;
        }
        all.push_back(x);
    }
    all.push_back(std::vector<float>(N, 0.0f));
    all.push_back(std::vector<float>(N, -0.0f));
    all.push_back(std::vector<float>(N, -3.25f));
    return all;
}

static std::vector<uint8_t> encode(const llama_fed_format & f, const std::vector<float> & x) {
    std::vector<uint8_t> out(x.size() / f.group * f.size);
    f.encode(x.data(), out.data(), x.size());
    return out;
}

static std::vector<float> decode(const llama_fed_format & f, const std::vector<uint8_t> & wire) {
    std::vector<float> x(wire.size() / f.size * f.group);
    f.decode(wire.data(), x.data(), x.size());
    return x;
}

static void check_formats(const llama_fed_codec & codec, const std::string & cpu) {
    for (const format & f : FORMATS) {
        const llama_fed_format & ours = codec.*f.of;
        for (const std::vector<float> & x : samples()) {
            const std::string          what = cpu + " " + f.name + " of rows like " + std::to_string(x[0]);
            const std::vector<uint8_t> wire = encode(ours, x);
            const std::vector<float>   back = decode(ours, wire);
            if (f.type != GGML_TYPE_COUNT) {
                std::vector<uint8_t> want(wire.size());
                ggml_get_type_traits(f.type)->from_float_ref(x.data(), want.data(), N);
                // a step that is too small for its own inverse has codes that mean nothing
                const bool tiny = std::fabs(x[4]) < 1e-30f && std::fabs(x[5]) < 1e-30f && f.type != GGML_TYPE_F16;
                expect(tiny || same(wire, want), what + " is not what ggml writes");
                std::vector<float> read(N);
                ggml_get_type_traits(f.type)->to_float(wire.data(), read.data(), N);
                expect(same(back, read), what + " is not what ggml reads");
            }
            const float bound = ours.bound(wire.data(), N);
            for (float v : back) {
                expect(std::fabs(v) <= bound, what + " has a value above its bound");
            }
            // one broken value breaks its group and no other
            for (float broken : { std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity() }) {
                std::vector<float> y           = x;
                y[70]                          = broken;
                const std::vector<uint8_t> bad = encode(ours, y);
                expect(!(ours.bound(bad.data(), N) < FED_F16_INF), what + " hides a value that is not finite");
                const size_t group = 70 / ours.group * ours.size;
                expect(memcmp(bad.data(), wire.data(), group) == 0 &&
                           memcmp(bad.data() + group + ours.size, wire.data() + group + ours.size,
                                  wire.size() - group - ours.size) == 0,
                       what + " lets a broken value spoil other groups");
            }
        }
    }
}

static void check_equal(const llama_fed_codec & a, const llama_fed_codec & b) {
    std::vector<float> turn(N);
    for (size_t i = 0; i < N; ++i) {
        turn[i] = std::cos(0.37f * (float) i);
    }
    for (const std::vector<float> & x : samples()) {
        for (const format & f : FORMATS) {
            const std::vector<uint8_t> wire = encode(a.*f.of, x);
            expect(same(wire, encode(b.*f.of, x)), std::string(f.name) + " differs between CPUs");
            expect(same(decode(a.*f.of, wire), decode(b.*f.of, wire)), std::string(f.name) + " is read differently");
        }
        const auto both = [&](const char * what, auto call) {
            std::vector<float> one = x;
            std::vector<float> two = x;
            call(a, one);
            call(b, two);
            expect(same(one, two), std::string(what) + " differs between CPUs");
        };
        both("hadamard", [](const llama_fed_codec & c, std::vector<float> & v) { c.hadamard(v.data(), N, 32); });
        both("add", [&](const llama_fed_codec & c, std::vector<float> & v) { c.add(v.data(), turn.data(), N); });
        both("subtract",
             [&](const llama_fed_codec & c, std::vector<float> & v) { c.subtract(v.data(), turn.data(), N); });
        for (bool halves : { false, true }) {
            for (size_t dims : { 20, 32 }) {
                both("rotate", [&](const llama_fed_codec & c, std::vector<float> & v) {
                    c.rotate(v.data(), GROUPS, FED_BLOCK, dims, halves, turn.data(), -1.0f);
                });
            }
        }
        std::vector<double> sums[2] = { std::vector<double>(N - 1), std::vector<double>(N - 1) };
        a.sum(sums[0].data(), x.data(), N - 1);
        b.sum(sums[1].data(), x.data(), N - 1);
        expect(sums[0] == sums[1], "sum differs between CPUs");
        expect(a.finite(x.data(), N) == b.finite(x.data(), N), "finite differs between CPUs");
    }
}

int main() {
    const llama_fed_codec & any  = llama_fed_codec_any();
    const llama_fed_codec & best = llama_fed_codec_best();
    check_formats(any, "any CPU:");
    if (&best != &any) {
        check_formats(best, "this CPU:");
        check_equal(any, best);
    }
    printf("test-codec: %s, %d failures\n", &best == &any ? "one CPU" : "two CPUs", failures);
    return failures == 0 ? 0 : 1;
}
