# Adds the federated KV cache and its C API to the llama target. Included by the patched src/CMakeLists.txt.
set(LLAMA_FED_SOURCES
    ${LLAMA_FED_DIR}/llama-kv-cache-fed.cpp
    ${LLAMA_FED_DIR}/llama-fed.cpp
    ${LLAMA_FED_DIR}/llama-fed-attention.cpp
    ${LLAMA_FED_DIR}/llama-fed-home.cpp
    ${LLAMA_FED_DIR}/llama-fed-hook.cpp
    ${LLAMA_FED_DIR}/llama-fed-output.cpp
    ${LLAMA_FED_DIR}/llama-fed-query.cpp
    ${LLAMA_FED_DIR}/llama-fed-rows.cpp
    ${LLAMA_FED_DIR}/llama-fed-rotate.cpp
    ${LLAMA_FED_DIR}/llama-fed-codec.cpp
    ${LLAMA_FED_DIR}/llama-fed-codec-avx2.cpp
)

target_sources(llama PRIVATE ${LLAMA_FED_SOURCES})
target_include_directories(llama PUBLIC ${LLAMA_FED_DIR})
set_source_files_properties(${LLAMA_FED_SOURCES} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

# Rows must be the same bits on every CPU, ours and those of ggml's reference quantisers, to which test-codec compares
# them. Without -ffp-contract=off, compilers fuse multiplications and additions where
# the architecture always has an instruction for it, as arm64 does. Vectors are never passed between functions, so how
# they would be (-Wpsabi) does not matter.
set_source_files_properties(${CMAKE_SOURCE_DIR}/ggml/src/ggml-quants.c TARGET_DIRECTORY ggml-base
    PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
set(LLAMA_FED_CODEC_OPTIONS -O3 -ffp-contract=off -Wno-psabi)
set_source_files_properties(${LLAMA_FED_DIR}/llama-fed-codec.cpp PROPERTIES COMPILE_OPTIONS "${LLAMA_FED_CODEC_OPTIONS}")
if (CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    list(APPEND LLAMA_FED_CODEC_OPTIONS -mavx2 -mf16c)
endif()
set_source_files_properties(${LLAMA_FED_DIR}/llama-fed-codec-avx2.cpp PROPERTIES COMPILE_OPTIONS "${LLAMA_FED_CODEC_OPTIONS}")

# Tests of ours, built only when they are named: every architecture of llama.cpp's own generator of tiny models against the
# API above, and the arithmetic of rows against ggml's.
set(LLAMA_FED_ARCHS ${LLAMA_FED_DIR}/../tests/oracle.cpp ${LLAMA_FED_DIR}/../tests/far-device.cpp)
set(LLAMA_FED_ARCHS_INCLUDE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/ggml/src)
add_executable(test-archs EXCLUDE_FROM_ALL ${LLAMA_FED_DIR}/../tests/test-archs.cpp ${LLAMA_FED_ARCHS})
target_include_directories(test-archs PRIVATE ${LLAMA_FED_ARCHS_INCLUDE})
target_link_libraries(test-archs PRIVATE llama llama-common)

# of all libraries it needs the smallest only, so that it is cheap to compile for another processor
add_executable(test-codec EXCLUDE_FROM_ALL ${LLAMA_FED_DIR}/../tests/test-codec.cpp ${LLAMA_FED_DIR}/llama-fed-codec.cpp
    ${LLAMA_FED_DIR}/llama-fed-codec-avx2.cpp)
target_include_directories(test-codec PRIVATE ${LLAMA_FED_DIR})
target_link_libraries(test-codec PRIVATE ggml-base)

# LeakSanitizer replaces malloc in the program that it is linked to; the libraries stay as they are.
add_executable(test-leaks EXCLUDE_FROM_ALL ${LLAMA_FED_DIR}/../tests/test-leaks.cpp ${LLAMA_FED_DIR}/../tests/oracle.cpp)
target_include_directories(test-leaks PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(test-leaks PRIVATE llama llama-common)
target_link_options(test-leaks PRIVATE -fsanitize=leak)

add_executable(test-calls EXCLUDE_FROM_ALL ${LLAMA_FED_DIR}/../tests/test-calls.cpp ${LLAMA_FED_ARCHS})
target_include_directories(test-calls PRIVATE ${LLAMA_FED_ARCHS_INCLUDE})
target_link_libraries(test-calls PRIVATE llama llama-common)

# Address and undefined-behaviour sanitizers for our own files and tests, for what llama.cpp has between its API and the
# graph, memory above all, and for ggml-base. Left out are ggml's kernels, the graphs of 130 architectures, vocabularies and
# libcommon, which take most of the time to compile.
option(LLAMA_FED_SANITIZE "instrument our code, llama.cpp's memory and ggml-base" OFF)
if (LLAMA_FED_SANITIZE)
    set(LLAMA_FED_SANITIZERS -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1)
    foreach(target ggml-base test-archs test-calls)
        target_compile_options(${target} PRIVATE ${LLAMA_FED_SANITIZERS})
    endforeach()
    foreach(target test-archs test-calls)
        target_link_options(${target} PRIVATE -fsanitize=address,undefined)
    endforeach()
    set(LLAMA_FED_SANITIZED ${LLAMA_CORE_SOURCES})
    list(FILTER LLAMA_FED_SANITIZED INCLUDE REGEX "adapter|batch|context|graph|io|kv-cache|memory")
    set_property(SOURCE ${LLAMA_FED_SANITIZED} ${LLAMA_FED_SOURCES} APPEND PROPERTY COMPILE_OPTIONS ${LLAMA_FED_SANITIZERS})
endif()

# What the engine's speed is measured against: llama.cpp's own benchmark on the very library that the engine links.
if (NOT LLAMA_BUILD_TOOLS)
    set(LLAMA_BENCH_DIR ${CMAKE_SOURCE_DIR}/tools/llama-bench)
    add_executable(llama-bench EXCLUDE_FROM_ALL ${LLAMA_BENCH_DIR}/main.cpp ${LLAMA_BENCH_DIR}/llama-bench.cpp)
    target_link_libraries(llama-bench PRIVATE llama-common llama)
    # llama.cpp's own way of using several devices
    if (GGML_RPC)
        add_executable(ggml-rpc-server EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tools/rpc/rpc-server.cpp)
        target_link_libraries(ggml-rpc-server PRIVATE ggml)
    endif()
endif()
