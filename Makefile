# Two verbs for a newcomer: `make demo` and `make test`. `make help` lists all.

PYTHON ?= python3
# Half as many again as there are cores: many tests wait for a service. Evaluated only where it is used.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(os.cpu_count() * 3 // 2)')

# Inside the conda environment of environment.yml everything is there already; elsewhere a virtual environment is made.
ifeq ($(CONDA_DEFAULT_ENV),lepton-kit)
BIN := $(CONDA_PREFIX)/bin
READY := .conda-ready
else
BIN := .venv/bin
READY := .venv/.ready
endif

# Jupyter asks root, who is the only user of many containers, to say that this is meant.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# What lies in reports/ beside the Quarto project itself.
PUBLISHED := _site _freeze runs incidents drills models listings .quarto .publishing .rendering

.PHONY: help setup demo test drills lab report docs screenshots bench size lint format outputs lock clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-11s %s\n", $$1, $$2 }'

setup: $(READY) ## make a virtual environment from requirements.lock, and bring Quarto if it can be had

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	@echo "setup: installing the packages of requirements.lock into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c 'import sys; from lepton_kit.reports.quarto import find_quarto; sys.exit(find_quarto() is None)' 2>/dev/null \
	    || $(if $(shell command -v timeout),timeout 180) $(BIN)/python -m pip install --quiet --disable-pip-version-check 'quarto-cli>=1.7' >/dev/null 2>&1 \
	    || echo 'setup: Quarto was not installed; reports will be plain pages. To have it: https://quarto.org (1.7 or newer)'
	@touch $@

.conda-ready:
	@touch $@

demo: setup ## run notebooks 01 to 05, serve the model, break its feed and that of scoring, and follow both to their recovery and their pages
	@$(BIN)/lepton pipeline goog
	@$(BIN)/lepton report
	@$(BIN)/lepton demo

test: setup lint ## check style and types, then run all tests until one fails, nbval on every notebook among them
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -n $(WORKERS) --dist worksteal -m "not alone"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -x -m alone tests

drills: setup ## put every live fault into a running service, and follow each to its recovery (45 minutes)
	@[ -d models/goog ] || $(BIN)/lepton pipeline goog
	@$(BIN)/lepton drill --live

size: ## count the lines of the package, part by part, and name what is too long
	@$(PYTHON) benchmarks/size.py

lint: setup ## check style (ruff) and types (mypy)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## fix formatting and imports with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lab: setup ## open the notebooks in JupyterLab
	@LEPTON_PROJECT="$(CURDIR)" $(BIN)/jupyter lab $(ALLOW_ROOT) --notebook-dir=. notebooks/00-tour.ipynb

report: setup ## render the newest run of each notebook as a website
	@$(BIN)/lepton report

docs: setup ## write the references of commands and functions from the code; with Quarto, render docs/ as a site
	@$(BIN)/python -m typer lepton_kit.cli utils docs --name lepton --output docs/commands.md
	@$(BIN)/python docs/make.py

screenshots: setup ## take README's screenshots (needs Chromium, and what make demo left)
	@$(BIN)/python reports/screenshots/take.py

bench: setup ## measure, side by side, what README and benchmarks/RESULTS.md claim
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

outputs: setup ## execute the committed notebooks again and keep their new outputs
	@$(BIN)/lepton pipeline goog
	@$(BIN)/lepton check --update

lock: ## resolve requirements.lock anew from pyproject.toml
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet torch==2.13.0 ".[dev]"
	@{ echo "# Made by \`make lock\` from pyproject.toml; every version is pinned."; \
	   .venv-lock/bin/python -m pip freeze --exclude lepton-kit | sed -E 's/\+cpu$$//'; } > requirements.lock
	@rm -rf .venv-lock

clean: ## remove what runs, services, drills, reports and tests leave (not the virtual environment, not monitoring/data)
	rm -rf docs-site docs/.quarto docs/.gitignore exports runs models services telemetry incidents drills $(addprefix reports/,$(PUBLISHED)) \
	    reports/.building-* .pytest_cache .mypy_cache .ruff_cache .venv-lock
