# `make demo` and `make test` work from a bare checkout: they assume Python >= 3.11 with venv and pip, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
NEWEST := .venv-newest

.PHONY: demo test lint types unit newest battery bench reference clean

demo: $(VENV)/.ready
	$(BIN)/ingot demo

test: lint types unit newest

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy
	$(BIN)/mypy training
	MYPYPATH=src:training $(BIN)/mypy -p benchmarks

unit: $(VENV)/.ready
	$(BIN)/python -m pytest -q

# The naming rests on calls of transformers that change between releases: run its tests on the newest one, too.
newest: $(NEWEST)/.ready
	PYTHONPATH=$(NEWEST) $(BIN)/python -m pytest -q tests/naming

# The long suite: crashes, kills, full disks, flipped bits, races; prints the figure that each reached.
battery: $(VENV)/.ready
	$(BIN)/python -m tests.battery

# Speed and memory, as ratios in one run; writes docs/benchmarks.md. As root it also measures with a cold cache.
bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks

# The checks against other libraries that take longer than `make test` should. Builds llama.cpp once, which needs cmake
# and a C++ compiler; it is kept in .llama-cpp/, or where INGOT_LLAMA_CPP says.
reference: $(VENV)/.ready
	$(BIN)/python -m pytest -q -m slow tests/oracle tests/quantize

$(VENV)/.ready: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(NEWEST)/.ready: $(VENV)/.ready
	rm -rf $(NEWEST)
	$(BIN)/python -m pip install -q --target $(NEWEST) --upgrade transformers
	touch $@

clean:
	rm -rf $(VENV) $(NEWEST) .llama-cpp build dist src/*.egg-info
