# Two commands: `make reports` publishes, `make test` checks. Each sets itself up.
# Another interpreter: make PY=python3.12 reports      Offline: PIP_FIND_LINKS=folder-of-wheels make setup
PY ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SHARED ?= ../shared/data
COMPILE := $(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --extra postgres --group dev --no-emit-package rfc3987-syntax --no-emit-package lark

.PHONY: setup reports test lab notebooks class lint lock docs
.DEFAULT_GOAL := reports

setup: $(STAMP)

# uv stands in the lock and is fetched first: it installs in seconds what takes pip minutes; pip is the fallback.
# --no-deps: the lock is complete but for rfc3987-syntax, an optional check that costs a second in each kernel.
$(STAMP): requirements.lock pyproject.toml
	@command -v $(PY) >/dev/null || { echo "setup: there is no $(PY) here. Install Python 3.11 or newer, or name yours: make PY=python3.12"; exit 2; }
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "setup: $(PY) is $$($(PY) -V 2>&1); 3.11 or newer is needed. Name a newer one: make PY=python3.12"; exit 2; }
	@$(PY) -c 'import ensurepip, venv' 2>/dev/null || { echo "setup: $(PY) has no ensurepip, so it cannot make an environment. On Debian or Ubuntu: apt install python3-venv"; exit 2; }
	@echo "setup: creating $(VENV) from requirements.lock (half a minute with a fast network)"
	@test -x $(BIN)/pip || $(PY) -m venv --clear $(VENV)
	@awk '/^[a-z]/ { keep = /^uv==/ } keep' requirements.lock > $(VENV)/uv.lock
	@{ $(BIN)/pip install -q --require-hashes -r $(VENV)/uv.lock && \
	   VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -q --compile-bytecode --no-deps --require-hashes -r requirements.lock || \
	   $(BIN)/pip install -q --no-deps --require-hashes -r requirements.lock; } > $(VENV)/setup.log 2>&1 || \
	 { echo "setup: the packages could not be downloaded. Is there a network, or a mirror in pip's configuration? Offline: PIP_FIND_LINKS=folder-of-wheels make setup. Details: $(VENV)/setup.log"; exit 2; }
	@$(BIN)/pip install -q --no-deps --no-build-isolation -e . >> $(VENV)/setup.log 2>&1 || { tail -3 $(VENV)/setup.log; exit 2; }
	@touch $@

reports: $(STAMP)
	@$(BIN)/kpi run --all
ifneq ($(wildcard $(SHARED)/robyn-weekly),)
	@$(BIN)/kpi run 01_kpi_setup --source $(SHARED)/robyn-weekly --mapping data/mappings/robyn_weekly.yaml
endif

test: lint
	@$(BIN)/pytest -q -n 2 --dist loadfile

lint: $(STAMP)
	@$(BIN)/ruff check -q . && $(BIN)/ruff format -q --check . && $(BIN)/mypy -p kpi_helpers

lab: $(STAMP)
	@$(BIN)/jupyter lab notebooks

notebooks: $(STAMP)
	@$(BIN)/python notebooks/make.py refresh

class: $(STAMP)
	@$(BIN)/python notebooks/make.py class reports/class

docs: $(STAMP)
	@$(BIN)/python -c 'from kpi_helpers import catalogue; print(catalogue.page(), end="")' > data/KPIS.md

lock: $(STAMP)
	@$(COMPILE) -o requirements.lock && touch $(STAMP)
