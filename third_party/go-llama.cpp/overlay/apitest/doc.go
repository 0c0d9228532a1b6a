// Package apitest holds tests of the binding's Go API on a real model, named by TEST_MODEL: each function and each
// option at least once (table_test.go), what they must not do (leak_test.go), and what they refuse.
//
// They are apart from the module's own ginkgo suite so that they run without what it needs:
//
//	go test github.com/go-skynet/go-llama.cpp/apitest
package apitest
