# make demo: set everything up and run the main job.   make test: set everything up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.demo-ready
READY := $(VENV)/.ready
PEERS := .venv-peers
DATA_PEERS := .venv-data-peers

.PHONY: demo test test-fast test-plain lint docs bench bench-data clean

demo: $(DEMO_READY)
	$(BIN)/tilth run recipes/first.yaml

# A worker per core, each with one thread; the tests of a file stay together, as they share what it made.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile

test: $(READY)
	$(PYTEST) -m "not gpu"

test-fast: $(READY)
	$(PYTEST) -m "not slow and not gpu"

# As on another kind of machine, without compiled kernels, AVX-512 and bfloat16 units: what computes.
COMPUTES := $(addprefix tests/,arch contracts data eval objective optim precision schedule train test_job.py test_verify.py)

test-plain: export TILTH_NATIVE := 0
test-plain: export ONEDNN_MAX_CPU_ISA := AVX2
test-plain: export ATEN_CPU_CAPABILITY := avx2
test-plain: $(READY)
	$(PYTEST) -m "not slow and not gpu" $(COMPUTES)

lint: $(READY)
	$(BIN)/ruff check tilth tests bench
	$(BIN)/ruff format --check tilth tests bench
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python bench/tables.py --check
	$(BIN)/python -m tilth.lab.docs --check

docs: $(READY)
	$(BIN)/python bench/tables.py
	$(BIN)/python -m tilth.lab.docs

bench: $(READY) $(PEERS)/.ready
	$(BIN)/python bench/train_cpu.py

# Needs ten minutes of an otherwise idle machine.
bench-data: $(READY) $(DATA_PEERS)/.ready
	$(BIN)/python bench/data.py
	$(BIN)/python bench/data_agreement.py
	$(BIN)/python bench/data_dedup.py
	$(BIN)/python bench/data_tokens.py

$(DATA_PEERS)/.ready: bench/data_peers.txt
	test -x $(DATA_PEERS)/bin/python || $(PYTHON) -m venv $(DATA_PEERS)
	$(DATA_PEERS)/bin/python -m pip install --quiet --requirement bench/data_peers.txt
	touch $@

# What tilth is measured beside, apart from tilth's own packages.
$(PEERS)/.ready: bench/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet "$$(grep '^torch==' bench/peers.txt)"
	$(PEERS)/bin/python -m pip install --quiet --no-deps --requirement bench/peers.txt
	touch $@

# What a run needs, and nothing else. Modules are compiled when they are first imported: most of torch never is.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

$(DEMO_READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tilth needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "No virtual environment could be made: install your system's venv package (Debian: python3-venv)."; exit 1; }
	$(PIP) --editable .
	touch $@

# What the tests and linters need besides. torch is there by now and pinned, so no other package chooses its build.
$(READY): $(DEMO_READY)
	$(PIP) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(DATA_PEERS) runs build *.egg-info
