# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test soak lint family clean

demo: $(VENV)/.installed  ## search over the embedded tiny models (a few minutes)
	$(BIN)/evomerge demo

test: $(VENV)/.installed-test  ## everything CI runs but the linters
	$(BIN)/python -m pytest

soak: $(VENV)/.installed-test  ## searches killed many more times than in `make test`
	EVOMERGE_TEST_KILLS=20 $(BIN)/python -m pytest tests/test_resume.py tests/test_workers.py

lint: $(VENV)/.installed-test  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

family: $(VENV)/.installed-test  ## train the embedded models and write the demo's tasks again
	$(BIN)/python -m evomerge.demo.family --out evomerge/demo/models --tasks fitness/demo_tasks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	touch $(VENV)/.installed $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
