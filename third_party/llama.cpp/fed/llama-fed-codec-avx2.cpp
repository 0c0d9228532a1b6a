// llama-fed-codec.cpp once more, with the compiler told to use AVX2 and F16C. On other architectures it is empty.
#if defined(__AVX2__) && defined(__F16C__)
#define FED_CODEC_AVX2
#include "llama-fed-codec.cpp"
#else
#include "llama-fed-codec.h"

const llama_fed_codec * llama_fed_codec_avx2() {
    return nullptr;
}
#endif
