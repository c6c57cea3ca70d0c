# `make demo` and `make test` set up what they need and then do it.
PYTHON ?= python3
BIN := .venv/bin
# pytest runs one worker a core; TensorFlow's own threads share them.
WORKERS ?= 2

.PHONY: demo test setup lint clean

demo: .venv/ready
	$(BIN)/edgecnn demo --out out/demo

test: .venv/ready lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'Installing python3-venv ...'; apt-get update -q && apt-get install -qy python3 python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv out build dist .mypy_cache .pytest_cache .ruff_cache
