# brew360: `make demo` and `make test` are all a newcomer needs; both set up .venv first.
# Options of the demo go in ARGS:  make demo ARGS="--source movielens --path ../shared/data/ml-100k"

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := $(shell grep -E '^torch==' requirements/cpu.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-real test-faults lint types bench-train bench-serve gpu-check clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## create .venv with everything pinned (about 3 minutes, once)

# PyTorch's own CPU index is preferred: elsewhere `torch` may be the CUDA build with gigabytes of packages, which also
# works, and is what the second line falls back to where that index cannot be reached.
$(VENV)/.ready: requirements/cpu.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; name another 3.11 with: make setup PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps --retries 0 --timeout 20 --index-url $(TORCH_INDEX) $(TORCH) \
	  || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the whole road: data, training, registry, serving (about 7 minutes)
	$(BIN)/brew360 demo $(ARGS)

test: test-fast test-real ## the tests, but for kills under load (test-faults)

test-fast: setup ## the tests that take seconds, on two cores
	$(BIN)/python -m pytest -m "not real" -n 2 --dist loadfile $(ARGS)

test-real: setup ## those that start Ray, vLLM or several processes: Ray's beside the others
	$(BIN)/python -m pytest -m "real and not faults" -n 2 --dist loadscope --durations=10 $(ARGS)

test-faults: setup ## kills under load: workers, drivers, replicas, engines, consumers, Redis (about 14 minutes)
	$(BIN)/python -m pytest -m faults --durations=10 $(ARGS)

lint: setup ## ruff: style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

bench-train: $(VENV)/bench/.ready ## training against TRL, DDP and plain loops, checkpoints, 20 kills (about 40 minutes)
	$(BIN)/python -m bench.train $(ARGS)

$(VENV)/bench/.ready: requirements/bench.txt $(VENV)/.ready
	rm -rf $(VENV)/bench
	$(BIN)/python -m pip install -q --no-deps --target $(VENV)/bench -r requirements/bench.txt
	@touch $@

bench-serve: setup ## ranking over HTTP against vLLM's own server; run `make demo` first (about 30 minutes)
	$(BIN)/python -m bench.serve $(ARGS)

gpu-check: ## training on one GPU without Ray: parity, tokens/s, MFU (needs PyTorch, transformers, liger-kernel)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m brew_train.diagnostics.gpu_check $(ARGS)

clean: ## remove what the commands made (.venv stays)
	rm -rf runs dist .pytest_cache .mypy_cache .ruff_cache
