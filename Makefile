# setup serve demo test test-all fix bench gpu clean: each installs what it needs by itself.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# two processes of one thread each: tensors are small here
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile

help:
	@echo "make serve     the server with the embedded model, and its page"
	@echo "make demo      pictures and a video of the embedded model, with adapters"
	@echo "make test      ruff, mypy, pytest (without the tests marked slow)"
	@echo "make test-all  the same with them"
	@echo "make fix       format, and mend what ruff can mend"
	@echo "make bench     measurements, into bench/results"
	@echo "make gpu       tests and measurements on a CUDA device"
	@echo "make clean     remove .venv and what tools left"

setup: $(READY)

# Anew only when what is installed has changed; the package itself is an editable install.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

serve: $(READY)
	$(BIN)/loraloom serve

demo: $(READY)
	$(BIN)/loraloom demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(PYTEST) -m 'not slow'

test-all: lint
	$(PYTEST)

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m bench.run

gpu: $(READY)
	@$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('make gpu needs a CUDA device')"
	$(BIN)/pytest tests/gpu
	$(BIN)/python -m bench.run --device cuda

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis demo dist

.PHONY: help setup serve demo lint test test-all fix bench gpu clean
