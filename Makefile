# Every target installs what it needs. `make demo` runs the whole chain, `make test` runs the tests.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# -P: never import modules from the current folder.
PIP := $(BIN)/python -P -m pip --disable-pip-version-check
# cpu: the pinned and tested CPU version, if torch is not installed. cuda: the version that the package index selects.
TORCH ?= cpu
# An index with CPU wheels of torch, for machines whose default index has only CUDA builds.
TORCH_INDEX ?=
TORCH_PIN := torch==2.13.0
TRITON_PIN := triton==3.7.1
STORE ?= longcat-store
FUZZ_SECONDS ?= 120
TEST_WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help setup demo long smoke test test-package test-slow lint format bench paper kernels-report docs clean fuzz test-ray test-page test-clients

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.ready ## Create .venv and install (TORCH=cuda on a machine with a GPU)

$(VENV)/.ready: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "longcat needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(PIP) install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[dev]' $(TRITON_PIN) \
		$$($(BIN)/python -P -m pip show --quiet torch 2>/dev/null || echo $(TORCH_PIN))
else
	$(PIP) install --quiet --editable '.[dev,gpu]'
endif
	@touch $@
	@echo "Ready. In each new shell: source $(VENV)/bin/activate"

demo: setup ## Run the whole chain, from a crawl to the evaluated, extended model
	$(BIN)/longcat --store $(STORE) run demo
	@echo
	@echo "Next steps:"
	@echo "  source $(VENV)/bin/activate                  once in each shell: adds longcat to the path"
	@echo "  longcat artifacts lineage extended        the lineage of the model"
	@echo "  longcat generate --checkpoint extended --prompt 'The function returns'"
	@echo "  longcat serve --checkpoint extended       an OpenAI-compatible server"
	@echo "  longcat recipes copy demo mine.yaml       start your own recipe"

long: setup ## Extend a small model to 131,072 tokens; evaluate it before and after (within an hour on two cores)
	$(BIN)/longcat --store $(STORE) run long
	$(BIN)/longcat --store $(STORE) eval show long-evaluation

smoke: setup ## Run the same stages in under three minutes, in a separate store
	rm -rf $(VENV)/smoke-store
	$(BIN)/longcat --store $(VENV)/smoke-store run smoke
	$(BIN)/longcat --store $(VENV)/smoke-store artifacts verify

# One test worker per core; TEST_WORKERS=0 runs the tests in a single process.
test: setup ## Run the tests (a quarter to half an hour on two cores)
	@echo "About 10,000 tests: a quarter to half an hour on two cores ($$(nproc) here)."
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow' -n $(TEST_WORKERS) --dist loadfile

test-package: setup ## Test installation in new environments, next to other packages (needs a package index)
	$(BIN)/pytest -m slow --timeout 3600 tests/package

test-slow: setup ## Run the slow tests, e.g. twenty kills of the smoke recipe
	$(BIN)/pytest -m slow --timeout 3600

fuzz: setup ## Fuzz the readers and page extraction, FUZZ_SECONDS each
	$(PIP) install --quiet --editable '.[fuzz]'
	$(BIN)/python tests/fuzz/fuzz_extract.py readers -max_total_time=$(FUZZ_SECONDS)
	$(BIN)/python tests/fuzz/fuzz_extract.py pages -max_total_time=$(FUZZ_SECONDS)

test-ray: setup ## Run the tests of the Ray engine on a local cluster (installs Ray into .venv)
	$(PIP) install --quiet --editable '.[ray]'
	$(BIN)/pytest tests/pipeline/test_engine_ray.py tests/pipeline/test_engine_ray_cluster.py

# CHROMIUM: a Chromium to use; without it Debian's package is installed, if this is possible.
CHROMIUM ?= $(shell command -v chromium)
test-page: setup ## Test the chat page in headless Chromium (installs Playwright, and Chromium by apt-get)
	$(PIP) install --quiet --editable '.[browser]'
ifeq ($(CHROMIUM),)
	apt-get update --quiet && apt-get install --quiet --yes --no-install-recommends chromium
endif
	LONGCAT_CHROMIUM=$(CHROMIUM) $(BIN)/pytest tests/stages/serve/test_page_in_browser.py

CLIENTS := $(abspath $(VENV))/clients
test-clients: setup ## Test the server with other clients, installed in a folder of their own (needs indexes, node and npm)
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -P -m pip install --quiet --disable-pip-version-check --requirement tests/clients/requirements.txt
	npm install --silent --no-audit --no-fund --prefix $(CLIENTS)/node openai@6
	LONGCAT_CLIENTS=$(CLIENTS) $(BIN)/pytest tests/clients

lint: setup ## Run ruff, mypy and import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# SERVING_PEER: a Python interpreter with transformers, its extra `serving`, and accelerate.
# CORPUS: a folder of HTML pages; PEER: a Python interpreter with datatrove and spaCy; ITEMS: FILE:FIELD,FIELD.
bench: setup ## Run the benchmarks (CORPUS=folder of HTML, PEER=python with datatrove, ITEMS=benchmark file:fields)
	$(BIN)/python benchmarks/command_line.py
	$(BIN)/python benchmarks/model_load.py
	$(BIN)/python benchmarks/train_checkpoint.py
	$(BIN)/python benchmarks/model_batch_invariance.py
	$(BIN)/python benchmarks/model_speed.py
	$(BIN)/python benchmarks/serve_engine.py
	$(BIN)/python benchmarks/serve_latency.py
	$(BIN)/python benchmarks/serve_drafts.py
	$(BIN)/python benchmarks/serve_clients.py --peer-python $(if $(SERVING_PEER),$(SERVING_PEER),none)
	$(BIN)/python benchmarks/kernel_experts.py
	$(BIN)/python benchmarks/kernel_attention.py
	$(BIN)/python benchmarks/kernel_cross_entropy.py
ifneq ($(CORPUS),)
	$(BIN)/python benchmarks/data_extract.py $(PEER:%=--peer-python %) $(CORPUS)
	$(BIN)/python benchmarks/data_filter.py $(PEER:%=--peer-python %) $(CORPUS)
	$(BIN)/python benchmarks/data_dedup.py recall --corpus $(CORPUS)
	$(BIN)/python benchmarks/data_pack.py $(CORPUS)
	$(BIN)/python benchmarks/data_scaling.py $(CORPUS)
ifneq ($(PEER),)
	$(BIN)/python benchmarks/data_dedup.py speed --corpus $(CORPUS) --peer-python $(PEER)
endif
ifneq ($(ITEMS),)
	$(BIN)/python benchmarks/data_decontaminate.py --benchmark $(ITEMS) $(PEER:%=--peer-python %) $(CORPUS)
endif
else
	@echo "The data benchmarks need pages: make bench CORPUS=FOLDER [PEER=PYTHON] [ITEMS=FILE:FIELD]"
endif

paper: setup ## Six ablations of the LongCat-Flash report with toy models, minutes each; results in paper-runs/
	for name in zero_experts shortcut mla_scale hidden_z_loss adam_epsilon learning_rate_transfer; do \
		$(BIN)/python benchmarks/paper/$$name.py || exit; done

kernels-report: setup ## Compile every Triton kernel for sm_90, sm_100 and gfx942 and show resource usage; needs no GPU
	$(BIN)/python -P -m longcat.kernels.report

docs: setup ## Build the documentation into site/; neither the build nor the pages need a network
	$(BIN)/mkdocs build --strict

clean: ## Remove caches and build output; the store and .venv stay
	rm -rf dist site .fuzz .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find -L src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
