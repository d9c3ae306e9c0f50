# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests sciplat

.PHONY: demo test lint bench clean

demo: $(VENV)/.demo
	$(BIN)/sciplat demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.bench_aperture --out benchmarks/results/aperture.json
	$(BIN)/python -m benchmarks.bench_pipeline --out benchmarks/results/pipeline.json
	$(BIN)/python -m benchmarks.bench_engine --out benchmarks/results/engine.json
	$(BIN)/python -m benchmarks.bench_quote --out benchmarks/results/quote.json
	$(BIN)/python -m benchmarks.bench_ingest --out benchmarks/results/ingest.json
	$(BIN)/python -m benchmarks.bench_cone --out benchmarks/results/cone.json
	$(BIN)/python -m benchmarks.bench_crossmatch --out benchmarks/results/crossmatch.json
	$(BIN)/python -m benchmarks.bench_gateway --out benchmarks/results/gateway.json

clean:
	rm -rf $(VENV) demo-output

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/.lint: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@
