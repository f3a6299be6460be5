# Two commands matter: `make run` and `make test`. Both do their own set-up, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
NOTEBOOKS ?= 01_base_retriever 02_cross_encoder_rerank 03_sagemaker_endpoint
PROFILE ?= embedded
DATA ?= ../shared/data
BIN := .venv/bin
# Says what a stage spent.
TIMED := @bash -c 'echo "$$*"; "$$@"; code=$$?; echo "[$$SECONDS s] $$*"; exit $$code' --
ALL := $(basename $(notdir $(wildcard notebooks/[0-9]*.ipynb)))

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# pip need not compile every file (a minute): Python compiles what is used, and keeps it.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup run lab test evaluate bench results hub outputs format

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1  /p' Makefile

setup: .venv/.ready ## make .venv and install requirements.txt into it

.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}; try `make PYTHON=python3.11`")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(TIMED) $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	$(BIN)/python -m pip check
	touch $@

run: setup ## execute notebooks 01 to 03 (NOTEBOOKS="..." for others) and print one reranked answer
	$(BIN)/python tools/execute.py $(NOTEBOOKS)
	$(BIN)/python -m helpers
	@echo "The executed notebooks, as pages:"
	@ls $(foreach n,$(NOTEBOOKS),build/html/$(n).html)

lab: setup ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

test: setup ## everything that CI runs
	$(TIMED) $(BIN)/ruff check .
	$(TIMED) $(BIN)/ruff format --check .
	$(TIMED) $(BIN)/nbstripout --verify --keep-output --keep-count --keep-id --extra-keys "cell.metadata.execution" notebooks/*.ipynb
	$(TIMED) $(BIN)/pytest tests -m "not slow" --durations=10
	$(TIMED) $(BIN)/python tools/execute.py $(ALL)
	$(TIMED) $(BIN)/pytest tests -m slow --durations=10

evaluate: setup ## the table of metrics (QUESTIONS=my.jsonl CORPUS=my.txt for your own; SPLIT=dev or test)
	$(BIN)/python -m helpers.measure.quality --profile $(PROFILE) $(if $(QUESTIONS),--questions $(QUESTIONS)) $(if $(CORPUS),--corpus $(CORPUS)) $(if $(SPLIT),--split $(SPLIT))

bench: setup ## every way of scoring and every kind of index, beside the machine's limit (an hour)
	$(BIN)/python -m helpers.scale.bench

results: setup ## measure anew what data/results holds, but for bench's part (DATA=folder with speeches/ and scifact/)
	$(BIN)/python -m helpers.measure.quality --split dev > data/results/address_dev.txt
	$(BIN)/python -m helpers.measure.quality --split test > data/results/address_test.txt
	$(BIN)/python -m helpers.measure.sweep
	test ! -d "$(DATA)" || $(BIN)/python -m helpers.measure.quality --corpus $(DATA)/speeches/state_of_the_union_2022.txt --questions data/judgements_state_of_the_union_2022.jsonl > data/results/state_of_the_union_2022.txt
	{ git describe --always --dirty --exclude '*'; sha256sum data/reranker/model.safetensors; nproc; uname -m; $(BIN)/pip freeze | grep -E '^(torch|transformers|sentence-transformers|faiss-cpu|langchain-core)=='; } > data/results/made_on.txt
	$(BIN)/python -m helpers.measure.reading $(if $(wildcard $(DATA)/speeches),--data $(DATA))
	test ! -d "$(DATA)" || $(BIN)/python -m helpers.measure.beir $(DATA)/scifact -k 20 --precision auto --out data/results/scifact.json

hub: setup ## the original models from the Hugging Face hub, and whether the page's answer holds
	$(BIN)/python tools/hub_answer.py
	RERANKER_PROFILE=hub $(MAKE) run

outputs: setup ## execute every notebook and commit-ready outputs into notebooks/
	$(BIN)/python tools/execute.py $(ALL)
	cp $(foreach n,$(ALL),build/notebooks/$(n).ipynb) notebooks/
	$(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys "cell.metadata.execution" notebooks/*.ipynb

format: setup ## format modules and notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
