# Adds the federated KV cache and its C API to the llama target. Included by the patched src/CMakeLists.txt.
set(LLAMA_FED_SOURCES
    ${LLAMA_FED_DIR}/llama-kv-cache-fed.cpp
    ${LLAMA_FED_DIR}/llama-fed.cpp
    ${LLAMA_FED_DIR}/llama-fed-hook.cpp
    ${LLAMA_FED_DIR}/llama-fed-output.cpp
    ${LLAMA_FED_DIR}/llama-fed-query.cpp
    ${LLAMA_FED_DIR}/llama-fed-rows.cpp
)

target_sources(llama PRIVATE ${LLAMA_FED_SOURCES})
target_include_directories(llama PUBLIC ${LLAMA_FED_DIR})
set_source_files_properties(${LLAMA_FED_SOURCES} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)

# The reference quantisers must give the same bits on every CPU: without this, compilers fuse their multiplications and
# additions where the architecture always has an instruction for it, as arm64 does.
set_source_files_properties(${CMAKE_SOURCE_DIR}/ggml/src/ggml-quants.c TARGET_DIRECTORY ggml-base
    PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
set_source_files_properties(${LLAMA_FED_DIR}/llama-fed-rows.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

# Every architecture of llama.cpp's own generator of tiny models against the API above; built only when it is named.
add_executable(test-archs EXCLUDE_FROM_ALL ${LLAMA_FED_DIR}/../tests/test-archs.cpp ${LLAMA_FED_DIR}/../tests/oracle.cpp)
target_include_directories(test-archs PRIVATE ${CMAKE_SOURCE_DIR}/tests ${CMAKE_SOURCE_DIR}/src)
target_link_libraries(test-archs PRIVATE llama llama-common)
