# GNU make. `make help` lists the targets; every one of them brings what it needs and does nothing twice.
#
# Variables: JOBS=N                parallel C++ compilers (all cores)
#            GGML_NATIVE=OFF       code for any CPU of this architecture, not for this one only (ON)
#            LLAMA_CPP_DIR=DIR     your own llama.cpp checkout instead of the pinned package; it is patched in place
#            LLAMA_CMAKE='-D…'     further cmake arguments for llama.cpp
#            CROSSCHECK_TEXT=FILE  what make crosscheck evaluates, at least 256 tokens (a text of the tests)
#            TESTFLAGS='-run X'    further arguments for go test
#            N=N                   how much of it: sessions of make soak (200), calls of make test-asan (10000), runs of
#                                  make test-race (1)
#            SEED=N                of make test-asan (1)
#            MINUTES=N             of make soak-churn (10)
#            NETWORK_RUNS=N        questions of each kind on each bad network in make test-faults (0: a few kinds, once)
#            PAIRS=N               pairs of make bench-warm (3)
#            BENCHFLAGS='-runs N'  further arguments for make bench-engine, make bench and make bench-peers
#            PEERS=N, THREADS=N    of make bench and make bench-peers: devices beside the asking one (1), threads of each (1)
#            LENGTHS=N,N REPS=N    and tokens of their prompts, how often each is measured (5),
#            LINKS=X,X             links such as loopback, 1gbit/0.3ms, and
#            RESULTS=FOLDER        where what was measured goes (results/date-host-commit)
#            IMAGE=X               the tag of make image (fedattn)
#            ARCH=X, BINARY=X      what make deb packs (this machine's, bin/fedattn)
#            PREFIX=X, DESTDIR=X   where make install puts things (/usr/local)
#            VERSION=X             the version that the binary reports (git describe)

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-builtin-rules --no-print-directory
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

JOBS        ?= $(shell nproc)
GGML_NATIVE ?= ON
export JOBS GGML_NATIVE LLAMA_CPP_DIR LLAMA_CMAKE

ifndef VERSION
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
endif

include models/lock.env third_party/go-llama.cpp/lock.env
MODEL ?= models/$(MODEL_FILE)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# our own sources by name, without what third_party brings in and builds
own         = $(shell find . \( -path './third_party/*/src' -o -path './third_party/*/build*' -o -path './.?*/tools' \) -prune -o -type f -name '$(1)' -print)
GO_FILES    = $(call own,*.go)
CXX_FILES   = $(call own,*.h) $(call own,*.cpp)
SHELL_FILES = .ci/run $(call own,*.sh)

##@ Use
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@/ { print substr($$0, 5) ":" } /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo-docs
demo-docs: build model ## a day in the life: three nodes with folders, eight questions, a document withdrawn in mid-conversation
	@demo/docs.sh bin/fedattn $(MODEL)

.PHONY: demo
demo: build model ## three nodes with three private texts answer one question
	@demo/run.sh bin/fedattn $(MODEL)

.PHONY: build
build: lib ## bin/fedattn
	@go build -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/fedattn ./cmd/fedattn

.PHONY: model
model: tools ## the model of the demo and the tests, 98 MB, into models/
	@models/fetch.sh >/dev/null

.PHONY: models
models: model ## the same, and for the tests one with sliding windows, 253 MB
	@models/fetch.sh window.env >/dev/null

##@ Test
.PHONY: test
test: lib models patch-check test-archs ## Go, cgo and real-model tests, then the same without cgo
	@echo 'go vet'
	@go vet ./...
	@echo 'go test'
	@TEST_MODEL=$(abspath $(MODEL)) go test -timeout 20m $(TESTFLAGS) ./... $(GO_LLAMA_MODULE)/apitest
	@echo 'go vet, go test without cgo'
	@CGO_ENABLED=0 go vet ./...
	@CGO_ENABLED=0 go test $(TESTFLAGS) ./...

# How often the trials of docs/reliability.md are made: as in CI here, as before a release by make test-release. SEED is of
# the first of each.
FAULT_RUNS ?= 1
NETWORK_RUNS ?= 0
T2 ?= 1000
T5 ?= 500
T8 ?= 3
T9 ?= 1
T10 ?= 20
SEED ?= 1
trials = FEDATTN_SEED=$(SEED) FEDATTN_T2_N=$(T2) FEDATTN_T5_N=$(T5) FEDATTN_T8_N=$(T8) FEDATTN_T9_N=$(T9) FEDATTN_T10_N=$(T10) \
	go test -timeout 0 -count 1 -v
counted = grep -E '^(---|ok|FAIL|panic)|T[0-9]+[,:]|INVALID|(faults|network)_test'

.PHONY: test-faults
test-faults: lib test-hostile ## real processes die and stop at named points, on bad networks; texts are looked for; and make test-hostile
	@FEDATTN_FAULT_RUNS=$(FAULT_RUNS) FEDATTN_FAULT_SEED=$(SEED) FEDATTN_NETWORK_RUNS=$(NETWORK_RUNS) go test -tags faults -timeout 0 -count 1 -v \
		-run '^(TestFaults|TestPublisherDies|TestRemovedInMidSession|TestBadNetworks)$$' ./cmd/fedattn | $(counted)
	@$(trials) -run '^TestTextsStayWhereTheyAre$$' ./cmd/fedattn | $(counted)

.PHONY: test-hostile
test-hostile: ## T2=1000 attacks of peers over mutual TLS, T9=1 of each kind of bad rows, T8=3 stragglers, T5=500 simulations
	@CGO_ENABLED=0 $(trials) -run '^(TestHostilePeers|TestBadRows|TestPlausibleRowsAreNotCaught|TestATrickleIsGivenUp)$$' ./transport | $(counted)
	@CGO_ENABLED=0 $(trials) -run '^TestStragglersOfAnyPace$$' ./fedkv/node | $(counted)
	@CGO_ENABLED=0 $(trials) -run '^TestSimulations$$' ./fedkv | $(counted)
	@CGO_ENABLED=0 go test -count 1 -run '^TestWhateverHappensTheAnswerIsTheOracles$$' ./fedkv/node -simulations $(T5)

TIME ?= 30s
fuzzed = ./fedkv ./fedkv/policy ./transport ./models/gguf

.PHONY: fuzz
fuzz: ## every decoder and the session machines, TIME=30s each; what fails stays in testdata as a test
	@for package in $(fuzzed); do \
		for target in $$(CGO_ENABLED=0 go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			out=$$(CGO_ENABLED=0 go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(TIME) $$package) || { printf '%s\n' "$$out"; exit 1; }; \
			echo "T1: $$package $$target: $$(grep -o 'execs: [0-9]*' <<<"$$out" | tail -n 1), failures 0"; \
		done; \
	done

.PHONY: test-netns
test-netns: lib ## contributors behind NATs of their own, an asker that changes its address: network namespaces, no root
	@FEDATTN_NETNS=1 go test -count 1 -v -run '^(TestNetworkNamespaces|TestTheAskersAddressChanges)$$' ./cmd/fedattn

.PHONY: test-lan
test-lan: build model ## two devices on one network: paired, found by mDNS, asked, killed, back; network namespaces, no root
	@deploy/lan/test.sh bin/fedattn $(MODEL)

.PHONY: test-mutants
test-mutants: ## plant one bug after another: each has to fail the test that is named with it
	@go run ./cmd/mutants

release = FAULT_RUNS=25 NETWORK_RUNS=50 T2=10000 T5=10000 T8=30 T9=500 T10=500

FLOOD ?= 10m
.PHONY: test-release
test-release: ## the same as often as before a release, hours; a number that is given counts: make test-release T2=100
	@$(MAKE) test-faults SEED=$(SEED) $(foreach t,$(release),$(if $(filter file,$(origin $(firstword $(subst =, ,$(t))))),$(t)))
	@FEDATTN_FLOOD=$(FLOOD) go test -timeout 2h -count 1 -v -run '^TestFlood$$' ./transport

CROSSCHECK_TEXT ?= cmd/fedattn/testdata/verify.txt
crosscheck = PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=.ci/tools/crosscheck python3 fedkv/testdata/crosscheck/crosscheck.py

.PHONY: crosscheck
crosscheck: build model .ci/tools/crosscheck/installed ## sessions against a forward pass in numpy, whole distributions
	@runs=$$(mktemp -d); trap 'rm -rf "$$runs"' EXIT; i=0; \
	schedules=$$($(crosscheck) schedules); \
	while read -r schedule local; do \
		run=$$runs/$$((i += 1))-$${schedule//[;=]/_}-$${local//[:=]/_}; \
		echo "fedattn eval --schedule '$$schedule' --local-rows $$local"; \
		bin/fedattn eval --model $(MODEL) --text $(CROSSCHECK_TEXT) --tokens 256 --prefix-tokens 16 --publisher-tokens 64 \
			--participants 4 --schedule "$$schedule" --local-rows "$$local" --wire f16 --positions inplace --format jsonl \
			--logits-out "$$run.npy" --tokens-out "$$run.json" >/dev/null; \
	done <<<"$$schedules"; \
	echo 'numpy'; \
	$(crosscheck) compare $(MODEL) "$$runs"/*.npy

.PHONY: test-archs
test-archs: deps ## tiny models of all architectures: bit-identical to one process, or refused
	@third_party/llama.cpp/test-archs.sh

.PHONY: test-upstream
test-upstream: deps model ## llama.cpp's own architecture, cache and state tests on the patched library
	@third_party/llama.cpp/test-upstream.sh $(MODEL)

PAIRS ?= 3
.PHONY: soak
soak: lib model ## N=200 sessions in a row on one node: memory, goroutines and descriptors, and what grows
	@FEDATTN_SOAK=$(or $(N),200) FEDATTN_TEST_MODEL=$(abspath $(MODEL)) go test -count 1 -timeout 2h -run '^TestSoak$$' -v ./cmd/fedattn

.PHONY: soak-churn
soak-churn: lib ## MINUTES=10 of sessions while nodes are killed and come back and askers give up: the same must stay level
	@# glibc counts what threads keep for their next allocations as allocated: without that, what is counted is exact
	@GLIBC_TUNABLES=glibc.malloc.tcache_count=0 FEDATTN_CHURN_MINUTES=$(or $(MINUTES),10) go test -count 1 -timeout 0 -run '^TestChurn$$' -v ./cmd/fedattn

.PHONY: test-race
test-race: lib ## N=1 time: races, wrong pointers and C memory that Go must not hold, tests in any order
	@GOEXPERIMENT=cgocheck2 go test -race -shuffle=on -short -timeout 0 -count $(or $(N),1) ./fedkv ./fedkv/node ./transport
	@GOEXPERIMENT=cgocheck2 go test -race -shuffle=on -short -timeout 0 -count $(or $(N),1) -run '^(TestSoak|TestAskJSON)$$' ./cmd/fedattn

.PHONY: test-asan
test-asan: deps ## N=10000 random calls of our C API under address and undefined-behaviour sanitizers; planted mistakes are found
	@third_party/llama.cpp/test-asan.sh $(or $(N),10000) $(or $(SEED),1)

.PHONY: leak-check
leak-check: deps ## what the C side allocates is freed: LeakSanitizer, and it finds a leak that is planted
	@third_party/llama.cpp/test-leaks.sh

.PHONY: test-home
test-home: lib model ## N=50 prompts: what is said with rows that stay home is what is said with rows that are sent
	@FEDATTN_HOME=$(or $(N),50) FEDATTN_TEST_MODEL=$(abspath $(MODEL)) go test -count 1 -timeout 2h -run '^TestHome(SaysWhatGatherSays|ContextBeyondMemory)$$' -v ./cmd/fedattn

.PHONY: bench-warm
bench-warm: lib model ## a second question on three documents of 512 tokens against a first one, PAIRS=3 times
	@FEDATTN_WARM=$(PAIRS) FEDATTN_TEST_MODEL=$(abspath $(MODEL)) go test -count 1 -timeout 1h -run '^TestWarm$$' -v ./cmd/fedattn

.PHONY: bench-cost
bench-cost: lib model ## what fedattn plan predicts against what real processes take: 36 sessions, predicted and simulated, minutes
	@FEDATTN_COST=$(or $(N),36) FEDATTN_TEST_MODEL=$(abspath $(MODEL)) go test -count 1 -timeout 30m -run '^TestCost$$' -v ./cmd/fedattn | grep -vE '^(=== |ok)'

WIRE_PAIRS ?= 20
.PHONY: bench-wire
bench-wire: ## blocks over QUIC on loopback against bare quic-go streams, in pairs
	@FEDATTN_WIRE_PAIRS=$(WIRE_PAIRS) FEDATTN_WIRE_RATIO=0.9 go test -count 1 -timeout 1h -v -run '^TestWireThroughput$$' ./transport

.PHONY: bench-engine
bench-engine: lib model ## the engine against llama-bench in pairs, and the rates of rows; BENCHFLAGS='-runs 3'
	@third_party/llama.cpp/supply.sh bench
	@go run ./cmd/enginebench -model $(MODEL) -llama-bench third_party/llama.cpp/build/bin/llama-bench $(BENCHFLAGS)

comma := ,
RESULTS ?= results/$(shell date +%F)-$(shell uname -n)-$(VERSION)
NODES    = $(shell echo $$(($(or $(PEERS),1) + 1)))
# links of both benchmarks, and what is measured over them
bench_over = -m $(MODEL) -t $(or $(THREADS),1) -r $(or $(REPS),5) -fp $(or $(LENGTHS),$(1)) -fn 32 --nodes $(NODES) \
	$(foreach l,$(subst $(comma), ,$(or $(LINKS),$(2))),--link $(l)) --progress --results $(RESULTS) $(BENCHFLAGS)

.PHONY: bench
bench: build model ## prompts and answers on one device and over PEERS=1 more: RESULTS=results/date-host-commit
	@bin/fedattn bench $(call bench_over,512$(comma)2048,loopback$(comma)100mbit/2ms) --schedule gather --schedule lockstep --schedule home
	@go run ./cmd/figures -bench $(RESULTS)

rpc = third_party/llama.cpp/build-rpc/bin
.PHONY: bench-peers
bench-peers: build model ## the same beside llama.cpp on one device and llama.cpp's RPC on as many; REPS=1 LENGTHS=512 LINKS=loopback is short
	@third_party/llama.cpp/supply.sh rpc
	@bin/fedattn bench -p 0 -n 0 $(call bench_over,512-8192*2,loopback$(comma)1gbit/0.3ms$(comma)100mbit/2ms$(comma)20mbit/10ms) \
		--schedule gather --schedule lockstep --llama-bench $(rpc)/llama-bench --rpc-server $(rpc)/ggml-rpc-server
	@go run ./cmd/figures -bench $(RESULTS)

.PHONY: test-go-llama
test-go-llama: lib model ## go-llama.cpp's own suite, unmodified
	@third_party/go-llama.cpp/test-suite.sh $(MODEL)

.PHONY: patch-check
patch-check: tools ## the patch applies to the pristine llama.cpp, and twice is once
	@third_party/llama.cpp/supply.sh patch-check

.PHONY: lint
lint: lib .ci/tools/installed ## gofmt, go mod, go vet, staticcheck, clang-format, shellcheck
	@echo 'gofmt'
	@files=$$(gofmt -l -s $(GO_FILES)); [[ -z $$files ]] || { printf 'not formatted (make format does it): %s\n' $$files; exit 1; }
	@echo 'go mod'
	@go mod tidy -diff
	@go mod verify >/dev/null
	@echo 'clang-format'
	@.ci/tools/clang_format/data/bin/clang-format --dry-run -Werror $(CXX_FILES)
	@echo 'shellcheck'
	@PATH=$$PWD/.ci/tools/bin:$$PATH; if command -v shellcheck >/dev/null; then shellcheck -x -P SCRIPTDIR $(SHELL_FILES); else echo 'shellcheck is not here: skipped'; fi
	@echo 'deployment files'
	@$(MAKE) deploy-check
	@echo 'go vet'
	@go vet ./...
	@CGO_ENABLED=0 go vet ./...
	@go vet -tags faults ./cmd/fedattn ./fedkv/node/fault
	@echo 'staticcheck'
	@go run $(STATICCHECK) ./...

.PHONY: format
format: .ci/tools/installed ## gofmt and clang-format, in place
	@gofmt -s -w $(GO_FILES)
	@.ci/tools/clang_format/data/bin/clang-format -i $(CXX_FILES)

audit = bin/fedattn audit -m $(MODEL) --text cmd/fedattn/testdata/verify.txt --format jsonl
.PHONY: audit
audit: build model ## what a peer with the same model reads out of rows: docs/figures/data/inversion.jsonl, and the figures
	@$(audit) --tokens 48 --layers 0-2,8,15,22,29 >docs/figures/data/inversion.jsonl
	@go run ./cmd/figures

.PHONY: simulate
simulate: ## sessions of up to 1,024 participants in virtual time, into docs/figures/data; make figures draws them
	@CGO_ENABLED=0 go run ./cmd/simulate >docs/figures/data/simulation.jsonl

.PHONY: figures
figures: ## docs/figures from the measurements in docs/figures/data; the same data give the same bytes
	@go run ./cmd/figures

##@ Devices
.PHONY: image
image: deps ## the container image, with docker, podman or buildah; PLATFORM=linux/arm64 for another machine
	@third_party/go-modules.sh
	@VERSION=$(VERSION) deploy/image/build.sh $(IMAGE)

.PHONY: test-image
test-image: deps model ## the same without a daemon and a registry; three containers of it answer a fourth (as root)
	@third_party/go-modules.sh
	@VERSION=$(VERSION) deploy/image/test.sh $(MODEL)

.PHONY: cross-arm64
cross-arm64: deps ## dist/fedattn-linux-arm64 and …-dotprod, compiled on this machine
	@deploy/arm64/build.sh $(VERSION)

.PHONY: test-arm64
test-arm64: build model cross-arm64 ## these under qemu: unit tests, verify, a session with this machine
	@deploy/arm64/test.sh bin/fedattn $(MODEL)

.PHONY: smoke-arm64
smoke-arm64: deps ## rows are the same bits on arm64, under qemu: what CI affords of test-arm64
	@deploy/arm64/smoke.sh

.PHONY: deploy-check
deploy-check: tools ## Dockerfiles, compose.yaml, manifests and the systemd unit, as the programs that use them read them
	@cd deploy/check && go vet . && go test . && go run . ../../Dockerfile ../../Dockerfile.jetson ../compose.yaml ../k3s/*.yaml
	@deploy/systemd/check.sh

NFPM   := github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.4
ARCH   ?= $(shell go env GOARCH)
BINARY ?= bin/fedattn

.PHONY: deb
deb: $(if $(filter bin/fedattn,$(BINARY)),build) ## dist/fedattn_…deb of BINARY for ARCH; a GGML_NATIVE=OFF build runs on other processors too
	@mkdir -p dist
	@ARCH=$(ARCH) BINARY=$(BINARY) VERSION=0.0~git$(VERSION) go run $(NFPM) package --config deploy/nfpm.yaml --packager deb --target dist

PREFIX ?= /usr/local

.PHONY: install
install: build ## the program, its manual and completions into $(DESTDIR)$(PREFIX)
	@install -D -m 755 bin/fedattn $(DESTDIR)$(PREFIX)/bin/fedattn
	@install -D -m 644 docs/man/fedattn.1 $(DESTDIR)$(PREFIX)/share/man/man1/fedattn.1
	@install -D -m 644 cmd/fedattn/completion/bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/fedattn
	@install -D -m 644 cmd/fedattn/completion/zsh $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_fedattn
	@install -D -m 644 cmd/fedattn/completion/fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/fedattn.fish

##@ Parts
.PHONY: docs
docs: ## what documents the program and is made of it: the manual, the errors
	@go test -count 1 -run '^TestReferenceIsCurrent$$' ./cmd/fedattn -update

.PHONY: lib
lib: deps ## llama.cpp with the federated cache, a static library
	@third_party/llama.cpp/supply.sh build
	@third_party/go-llama.cpp/supply.sh build

.PHONY: deps
deps: tools ## system packages, llama.cpp's source with our patch, go-llama.cpp
	@third_party/llama.cpp/supply.sh patch
	@third_party/go-llama.cpp/supply.sh fetch

# what the other targets need from the system; Go itself is the user's choice
.PHONY: tools
tools:
	@third_party/system-packages.sh cxx cmake ninja patch python3 pip
	@command -v go >/dev/null || { echo 'Go 1.26 or newer is missing: install it from your distribution or the Go project'; exit 1; } >&2
	@go list -m >/dev/null

pip = if python3 -m pip --version >/dev/null 2>&1; then pip='python3 -m pip'; else pip=pip3; fi; \
	PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $$pip install --quiet --no-input $(1)

# linters of exact versions, for this checkout only
.ci/tools/installed: .ci/tools.txt | tools
	@echo 'installing clang-format and shellcheck into .ci/tools'
	@rm -rf .ci/tools
	@$(call pip,--no-deps --only-binary :all: --require-hashes --target .ci/tools -r $<)
	@touch $@

# what the numpy forward pass needs, for this checkout only
.ci/tools/crosscheck/installed: fedkv/testdata/crosscheck/requirements.txt | tools
	@echo 'installing numpy and gguf into .ci/tools/crosscheck'
	@rm -rf $(@D)
	@$(call pip,--only-binary :all: --target $(@D) -r $<)
	@touch $@

##@ Clean
.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist $(wildcard third_party/llama.cpp/build*) third_party/llama.cpp/check

.PHONY: distclean
distclean: clean ## and what was downloaded
	rm -rf $(addprefix third_party/llama.cpp/,src download) third_party/go-llama.cpp/src third_party/modules .ci/tools models/*.gguf
