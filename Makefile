# Weir: load balancing as a service on machines you own. `make help` lists the targets.

GO       ?= go
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X weir/weir.Version=$(VERSION)
export GOFLAGS += -buildvcs=false

# HAProxy, runc and nft are in sbin, which only some shells look into; Go where its own
# archive puts it, which sudo does not look into.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

# Tests make namespaces and containers, so their binaries run as root. There may be no Go
# there: they are told of the weir that is built.
GOTEST   := $(GO) test $(if $(SUDO),-exec 'sudo env WEIR_BINARY=$(CURDIR)/bin/weir')

.PHONY: help deps build dev test bench-change bench-failover bench-api bench-scale bench-proxy vet clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what is missing: HAProxy, runc, nftables, iproute2, nginx, curl, procps, gcc
	@$(SUDO) scripts/deps

build: ## build bin/weir
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/weir ./cmd/weir

dev: deps build ## a whole region on this machine: weir dev
	$(SUDO) bin/weir dev $(DEVFLAGS)

test: deps build ## every test, with the race detector, and those of the API over etcd too
	$(GO) vet ./...
	$(GOTEST) -race -timeout 20m ./...
	WEIR_TEST_STORE=etcd $(GO) test -timeout 20m ./api

bench-change: deps build ## how fast a server comes and goes, beside render-and-reload
	$(GO) run ./bench/change $(BENCHFLAGS)

bench-failover: deps build ## how long clients wait when a load balancer fails over, beside others
	@$(SUDO) scripts/deps failover
	$(GO) build -o bin/bench-failover ./bench/failover
	$(SUDO) bin/bench-failover $(BENCHFLAGS)

bench-api: ## what the API does a second among up to a million droplets, and how soon nodes hear
	$(GO) build -o bin/bench-api ./bench/api
	bin/bench-api $(BENCHFLAGS)

bench-scale: ## how pools follow their load by Weir's policy and by others', simulated
	$(GO) run ./bench/scale $(BENCHFLAGS)

bench-proxy: ## what requests and TLS handshakes cost, beside a tuned HAProxy, nginx and Caddy
	@$(SUDO) scripts/deps proxy
	$(GO) build -o bin/bench-proxy ./bench/proxy
	bin/bench-proxy $(BENCHFLAGS)

clean: ## remove what was built
	rm -rf bin
