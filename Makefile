# The entry point for everybody who builds, runs or tests gapless. `make help` lists the targets.

CARGO ?= cargo
PORT ?= 8888
DESTDIR ?=
prefix ?= /usr
PREFIX ?= $(prefix)
ZSHDIR ?= share/zsh/site-functions
# Where packages put the variables of the service: etc/sysconfig in rpms.
DEFAULTS ?= etc/default
# --offline: cargo asks nobody.
OFFLINE ?=
# Of all that can be built.
BUILT ?= --bin gapless
# Empty: with the debug symbols, which packages put apart.
STRIP ?= --strip

# No path of the machine that built it is in a release, so that two builds are equal. The last prefix
# that matches is taken: CARGO_HOME may be below this directory.
export CARGO_HOME ?= $(HOME)/.cargo
build bench-programs deb rpm: export RUSTFLAGS := --remap-path-prefix=$(CURDIR)=/gapless --remap-path-prefix=$(CARGO_HOME)/registry/src=/cargo $(RUSTFLAGS)

.DEFAULT_GOAL := help
.PHONY: help run fetch build check test test-systemd test-apps test-long fuzz compare bench bench-gap bench-scale bench-upgrades bench-programs doc deb rpm install install-package clean

help: ## say what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Not optimized, which takes a third of the time, and is fast enough to look at.
run: ## start gapless with the example app on http://127.0.0.1:8888 (PORT=... for another)
	@$(CARGO) build --locked --bin gapless --bin gapless-hello
	@printf '\n  Open      http://127.0.0.1:%s    it counts what fails while you do the next\n' $(PORT)
	@printf '  Try next  in another terminal, in this directory:\n'
	@printf '              target/debug/gapless reload    new processes of the app\n'
	@printf '              target/debug/gapless status    is it fine?\n'
	@printf '  Stop      Ctrl-C\n\n'
	@exec target/debug/gapless run --port $(PORT) -- target/debug/gapless-hello

fetch: ## download what a build needs; then make build OFFLINE=--offline needs no network
	$(CARGO) fetch --locked --target $$($(CARGO) -vV | sed -n 's/^host: //p')

build: ## build the release binary
	$(CARGO) build --release --locked $(OFFLINE) $(BUILT)

check: ## formatting and lints
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path examples/rust/Cargo.toml
	@$(CARGO) metadata --locked --format-version 1 --manifest-path tests/fuzz/Cargo.toml >/dev/null
	@$(CARGO) metadata --locked --format-version 1 --manifest-path examples/rust/Cargo.toml >/dev/null
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --features app -- -D warnings

test: ## all tests; as root on Debian or Ubuntu it installs what they need
	@tests/world/need.sh
	$(CARGO) test --locked --no-fail-fast

test-systemd: ## only the tests in containers with a real systemd
	@tests/world/need.sh
	$(CARGO) test --locked --test systemd

test-apps: ## the apps of examples/ on their real runtimes, which it downloads once (400 MB)
	@tests/world/need.sh
	$(CARGO) test --locked --test runtimes -- --include-ignored --nocapture

test-long: ## all tests in their long forms, and make fuzz with SECONDS=60
	@tests/world/need.sh
	GAPLESS_LONG=1 $(CARGO) test --locked --no-fail-fast
	@tests/fuzz/run.sh $(or $(SECONDS),60)

fuzz: ## every parser against what nobody would write, SECONDS=10 each
	@tests/fuzz/run.sh $(or $(SECONDS),10)

compare: ## the corpus of hostile requests through nginx, beside gapless
	$(CARGO) test --locked --test corpus -- --ignored --nocapture nginx

bench: bench-programs ## what a request costs, beside nginx and HAProxy; BENCH=--help
	@python3 tests/bench cost $(BENCH)

bench-gap: bench-programs ## what clients feel of reloads, upgrades, restarts and crashes, beside others
	@python3 tests/bench gap $(BENCH)

bench-scale: bench-programs ## does it cost more when there is more: idle connections, workers, reloads
	@python3 tests/bench scale $(BENCH)

bench-upgrades: ## what twenty upgrades cost the slowest requests
	@$(CARGO) test --release --locked --test upgrade -- --ignored --nocapture twenty_upgrades

# Not at once: what only the examples need would be in the program that is measured, too.
bench-programs:
	@$(CARGO) build --release --locked --example bench-app --example bench-load --example bench-bare
	@$(CARGO) build --release --locked --bin gapless

doc: ## the documentation of the crate
	$(CARGO) doc --locked --no-deps

# Everything is fetched before; what happens after that is the same without a network.
deb rpm: OFFLINE = --offline
build: | $(if $(filter deb rpm,$(MAKECMDGOALS)),fetch)

deb: fetch build ## the Debian package, and the one with its debug symbols, in dist/
	@packaging/deb.sh

rpm: fetch build ## the rpm package, and the one with its debug symbols, in dist/
	@packaging/rpm.sh

install: ## all that there is, below DESTDIR and prefix=/usr; after make build
	@test -x target/release/gapless || { echo 'make install: nothing is built yet; run make build first' >&2; exit 1; }
	install $(STRIP) -D -m 0755 target/release/gapless $(DESTDIR)$(PREFIX)/bin/gapless
	for unit in gapless.socket gapless.service gapless@.socket gapless@.service \
		gapless-admin.socket gapless-admin@.socket gapless-control.socket gapless-control@.socket \
		gapless-tmp.service gapless-tmp@.service; do \
		install -D -m 0644 units/$$unit $(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit || exit; \
	done
	sed -i 's|/usr/bin/gapless|$(PREFIX)/bin/gapless|' $(DESTDIR)$(PREFIX)/lib/systemd/system/gapless*.service
	install -D -m 0644 units/gapless.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/gapless.conf
	install -D -m 0644 units/gapless.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/gapless.conf
	for section in 1 5 7 8; do \
		install -D -m 0644 packaging/man/*.$$section -t $(DESTDIR)$(PREFIX)/share/man/man$$section || exit; \
	done
	target/release/gapless manual $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 0644 packaging/gapless.preset $(DESTDIR)$(PREFIX)/lib/systemd/system-preset/90-gapless.preset
	install -D -m 0644 packaging/gapless.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/gapless.catalog
	install -D -m 0644 packaging/gapless.toml $(DESTDIR)$(PREFIX)/share/doc/gapless/gapless.toml
	install -D -m 0644 examples/procfile/* -t $(DESTDIR)$(PREFIX)/share/doc/gapless/examples/procfile
	install -D -m 0644 packaging/container/Containerfile -t $(DESTDIR)$(PREFIX)/share/doc/gapless/examples
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(DESTDIR)$(PREFIX)/$(ZSHDIR)
	target/release/gapless completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/gapless
	target/release/gapless completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/gapless.fish
	target/release/gapless completions zsh >$(DESTDIR)$(PREFIX)/$(ZSHDIR)/_gapless

# Only for packages: the configuration, and what their scripts and needrestart call.
install-package:
	install -D -m 0644 packaging/gapless.toml $(DESTDIR)/etc/gapless/gapless.toml
	install -D -m 0644 packaging/gapless.default $(DESTDIR)/$(DEFAULTS)/gapless
	install -D -m 0644 packaging/needrestart.conf $(DESTDIR)/etc/needrestart/conf.d/gapless.conf
	install -D -m 0755 packaging/maintain $(DESTDIR)$(PREFIX)/lib/gapless/maintain

clean: ## remove what was built (not the cached base trees of the tests)
	$(CARGO) clean
