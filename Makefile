# Every target works on a fresh clone: what it needs, it fetches.

PYTHON ?= python3
# where the experiments of the judge report keep what they made
JUDGE_REPORT_DIR ?= target/judge-report
# seconds for each fuzz target
FUZZ_SECONDS ?= 60
# of the soak, and the device that it runs on: cpu or cuda
SOAK_SECONDS ?= 1800
SOAK_DEVICE ?= cpu
RAY ?= ray==2.60.0
CMAKE ?= cmake==4.2.3

# the criterion suites, one a subject, and where their figures lie
SUITES = --bench pass --bench linear --bench attention --bench verify --bench scores \
	--bench drafting --bench text --bench steps
CRITERION = $${CARGO_TARGET_DIR:-target}/criterion

# the release: what cargo builds for it, and where it goes
RELEASE = $${CARGO_TARGET_DIR:-target}/release

.PHONY: help demo dist test test-long test-ray bench bench-quick fuzz soak smollm2 judge-report clean

help:
	@echo 'make demo     answer problems with the small pair in models/demo, five ways side by side'
	@echo 'make test     formatting, lints, tests, doc tests, one short pass over every bench'
	@echo 'make test-long whole steps in every order, long contexts, wide models layer by layer: hours'
	@echo 'make test-ray mine over a local Ray cluster, and lose a worker on the way'
	@echo 'make bench    all benches, timed, and a page of their figures in target/criterion/summary.md'
	@echo 'make bench-quick  the criterion suites in two minutes, with the same page'
	@echo 'make fuzz     every fuzz target, FUZZ_SECONDS=$(FUZZ_SECONDS) each'
	@echo 'make soak     engines side by side and interrupted commands, SOAK_SECONDS=$(SOAK_SECONDS), SOAK_DEVICE=$(SOAK_DEVICE)'
	@echo 'make judge-report  mine, train and decode the judge report again: hours; goes on in $(JUDGE_REPORT_DIR)'
	@echo 'make dist     the command, libgavel.a and gavel.h in one archive, in target/dist'
	@echo 'make smollm2  fetch SmolLM2-135M-Instruct into models/smollm2-135m'
	@echo 'make clean    remove all that was built or fetched'

demo:
	cargo run --release -- demo

# The cheap checks come first. nvcc and CMake are the user's own or are fetched. `--test` makes each
# bench run once, untimed, in the profile of the tests: nothing is compiled twice, but for the kernels:
# clippy's build is apart from every other, and one architecture is enough for it.
test: $(if $(shell command -v cmake 2>/dev/null),,.venv/$(CMAKE))
	cargo fmt --all --check
	$(MAKE) --no-print-directory smollm2
	CUDA_HOME="$$($(PYTHON) scripts/get_nvcc.py)" && export CUDA_HOME && \
		PATH="$$PATH:$$(echo $(CURDIR)/.venv/$(CMAKE)/lib/*/site-packages/cmake/data/bin)" && export PATH && \
		GAVEL_CUDA_ARCHS=90 cargo clippy --quiet --workspace --all-targets -- -D warnings && \
		RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps && \
		cargo test --quiet --workspace && \
		cargo test --quiet --workspace --bench '*' -- --test

# What takes minutes on the software device, and whether the fuzz targets compile.
test-long:
	CUDA_HOME="$$($(PYTHON) scripts/get_nvcc.py)" && export CUDA_HOME && \
		cargo clippy --quiet --manifest-path fuzz/Cargo.toml -- -D warnings && \
		cargo test --release --test cuda -- --ignored --nocapture

test-ray: .venv/$(RAY)
	cargo build --release
	.venv/$(RAY)/bin/python scripts/test_mine_on_ray.py $${CARGO_TARGET_DIR:-target}/release/gavel

# What comes from PyPI, one folder per version: Ray, which mining works without, and CMake.
.venv/%:
	$(PYTHON) -m venv .venv/making
	.venv/making/bin/python -m pip install -q --disable-pip-version-check $*
	mv .venv/making $@

bench: smollm2
	mkdir -p $(CRITERION) && touch $(CRITERION)/began
	cargo bench $(SUITES)
	cargo bench --bench limits --bench judge --bench train --bench economy
	$(PYTHON) scripts/bench_summary.py $(CRITERION) --since $(CRITERION)/began

# The same suites with a tenth of criterion's samples and time: two minutes once they are built.
bench-quick: smollm2
	mkdir -p $(CRITERION) && touch $(CRITERION)/began
	cargo bench $(SUITES) -- --warm-up-time 0.1 --measurement-time 0.3 --sample-size 10 --nresamples 10000 --noplot
	$(PYTHON) scripts/bench_summary.py $(CRITERION) --since $(CRITERION)/began

# The address sanitizer is an unstable option of rustc; RUSTC_BOOTSTRAP lets the installed
# compiler take it, so that no nightly is needed beside it.
fuzz:
	command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz@0.13.2
	set -e; for target in $$(cargo fuzz list); do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -timeout=10; \
	done

# With the kernels of every architecture, whatever GAVEL_CUDA_ARCHS says.
dist:
	CUDA_HOME="$$($(PYTHON) scripts/get_nvcc.py)" && export CUDA_HOME && unset GAVEL_CUDA_ARCHS && \
		cargo build --release -p gavel -p gavel-c --bin gavel --example gavel
	mkdir -p $(RELEASE)/../dist
	$(PYTHON) scripts/dist.py --executable $(RELEASE)/gavel \
		--library $(RELEASE)/examples/libgavel.a --out $(RELEASE)/../dist

# Memory, outputs and files of half an hour; its last result is in docs/soak.md.
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_DEVICE=$(SOAK_DEVICE) \
		cargo test --release --test soak -- --ignored --nocapture

smollm2:
	$(PYTHON) scripts/fetch_smollm2.py

# What is in JUDGE_REPORT_DIR already is not made again. The judge of the first seed is the
# one that the demo uses.
judge-report:
	cargo run --release -- experiment main suffix data two-layer domain-shift \
		--dir $(JUDGE_REPORT_DIR) --python $(PYTHON)
	cp $(JUDGE_REPORT_DIR)/seed-1/selfjudge.safetensors models/demo/judge.safetensors

clean:
	cargo clean
	rm -rf .cuda .venv fuzz/target models/smollm2-135m models/.python models/.fetch models/.fetch.lock
