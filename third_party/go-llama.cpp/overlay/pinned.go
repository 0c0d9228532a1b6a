package llama

// The pinned llama.cpp keeps its headers in other places than the one llama.go was written for, and they are C++17.
// The name of this file sorts behind llama.go, so that its -std is the last one on the command line.

// #cgo CXXFLAGS: -I${SRCDIR}/llama.cpp/include -I${SRCDIR}/llama.cpp/ggml/include -std=c++17
import "C"
