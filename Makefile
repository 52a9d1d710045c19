# Everything a newcomer types; `make help` lists it.

PREFIX ?= /usr/local
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help all build demo test torture fuzz bench memory scale peers deny sbom install clean

all: build

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

build: ## the release binary, target/release/barback
	$(CARGO) build --release --locked

demo: ## archive, back up, drop a table, restore to the moment before: on a scratch cluster, cleaned up afterwards
	@tools/demo.sh

test: ## format, lints and every test, on PostgreSQL 15, 16, 18 and real S3 servers (fetched if missing)
	@tools/test.sh

torture: ## 1,000 seeded fault scenarios, 200 on failing disks, 500 kills and a soak of 5,000 segments (some 50 minutes)
	@tools/torture.sh

fuzz: ## every parser of outside bytes with cargo-fuzz, ten minutes each (SECONDS_EACH=60: shorter; TARGETS="tar wal": some; needs nightly)
	@tools/fuzz.sh

bench: ## the Criterion benches
	$(CARGO) bench --locked --bench codec --bench layout --bench proofs

memory: ## peak memory and wall time of a 3 GB backup and restore on MinIO (a few minutes, 15 GB in /tmp)
	@tools/memory.sh

scale: ## 2,000 backups and 200,000 WAL objects on MinIO: what the commands that look at all of it take (some five minutes)
	$(CARGO) bench --locked --bench scale

peers: ## all jobs beside barman-cloud, pgBackRest, WAL-G: time, CPU, memory, bytes (an hour or two; PEERS=--small: some minutes)
	@benches/peers/run.sh $(PEERS)

deny: ## licences, advisories and sources of dependencies, with cargo-deny (fetched if missing)
	@tools/deny.sh

sbom: ## what is in the release binary, in which version and under which licence: CycloneDX as JSON
	@tools/sbom.sh

install: build ## the binary into PREFIX/bin (default /usr/local)
	install -D -m 755 $(TARGET)/release/barback $(DESTDIR)$(PREFIX)/bin/barback

clean: ## what cargo built; downloaded servers stay in the tools directory
	$(CARGO) clean
