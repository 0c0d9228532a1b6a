// Package apitest holds tests of the binding's Go API on a real model, named by TEST_MODEL.
//
// They are apart from the module's own ginkgo suite so that they run without it:
//
//	go test github.com/go-skynet/go-llama.cpp/apitest
package apitest
