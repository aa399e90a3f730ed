# Everything a person types in this repository; `make` lists it. Each target builds .venv first, if it has to.

PYTHON ?= python3
CONSTRAINTS := constraints.txt
BIN := .venv/bin
STAMP := .venv/.installed-from-constraints

# Idle OpenMP threads sleep instead of spinning: several processes share the cores.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests on real data read these; CLICKPROMPT_ML1M and CLICKPROMPT_ROBERTA_TOKENIZER too, where you have set them (CONTRIBUTING.md).
# What is not set is fetched into data/, which git ignores.
ifndef CLICKPROMPT_ML100K
export CLICKPROMPT_ML100K := $(CURDIR)/data/movielens-100k
FETCHED += fetch-ml100k
endif
ifndef CLICKPROMPT_BOOKCROSSING
export CLICKPROMPT_BOOKCROSSING := $(CURDIR)/data/bookcrossing
FETCHED += fetch-bookcrossing
endif
ifndef CLICKPROMPT_MINILM
export CLICKPROMPT_MINILM := $(CURDIR)/data/minilm-l6
FETCHED += fetch-minilm
endif
ifndef CLICKPROMPT_GPT2_BPE
export CLICKPROMPT_GPT2_BPE := $(CURDIR)/data/gpt2-bpe
FETCHED += fetch-gpt2-bpe
endif

.PHONY: help env demo demo-full test test-slow check docs fetch-ml100k fetch-bookcrossing fetch-minilm fetch-gpt2-bpe

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## build .venv from constraints.txt, if it is missing or older

$(STAMP): $(CONSTRAINTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python ≥ 3.11; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: env ## MovieLens-100K through the whole system in minutes, into runs/demo: a smoke run
	$(BIN)/clickprompt pipeline --config demo --run runs/demo

demo-full: env ## the same at full length, into runs/demo-full
	$(BIN)/clickprompt pipeline --config demo-full --run runs/demo-full

TESTS ?= not slow

test: env $(FETCHED) ## the test suite, without the slow cases
	$(BIN)/python -m pytest -m "$(TESTS)"

test-slow: env $(FETCHED) ## only the slow cases
	$(BIN)/python -m pytest -m slow

.PHONY: coverage nox
coverage: env $(FETCHED) ## the tests without Ray, and the lines of the Ray-free core that they leave out
	$(BIN)/python -m pytest -m "unit and not slow" --cov --cov-report=term --cov-fail-under=95

nox: env ## the tests without Ray on Python 3.11, 3.12 and 3.13, as far as those are here
	@$(BIN)/python -m nox --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet nox
	$(BIN)/python -m nox

check: env ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: env ## docs/config.md, from the models in clickprompt/config/
	$(BIN)/python -m clickprompt.config.reference > docs/config.md.new && mv docs/config.md.new docs/config.md

fetch-ml100k: env
	$(BIN)/clickprompt fetch movielens-100k --to data/movielens-100k

fetch-bookcrossing: env
	$(BIN)/clickprompt fetch bookcrossing --to data/bookcrossing

fetch-minilm: env
	$(BIN)/clickprompt fetch minilm-l6 --to data/minilm-l6

fetch-gpt2-bpe: env
	$(BIN)/clickprompt fetch gpt2-bpe --to data/gpt2-bpe
