# Two commands matter: `make run` and `make test`. Both do their own set-up, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.13 || command -v python3.12 || command -v python3)
PIP_ARGS ?=
NOTEBOOKS ?= 01_base_retriever 02_cross_encoder_rerank 03_sagemaker_endpoint
PROFILE ?= embedded
GROUPS := models retrieval measuring endpoint notebooks tests
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
# Says what a stage spent.
TIMED := @bash -c 'echo "$$*"; "$$@"; code=$$?; echo "[$$SECONDS s] $$*"; exit $$code' --
ALL := $(basename $(notdir $(wildcard notebooks/[0-9]*.ipynb)))
# The notebooks that need requirements-scale.txt, and requirements-documents.txt.
SCALE := 06_% 07_%
DOCUMENTS := 08_%
STRIP := $(BIN)/nbstripout --keep-output --keep-count --keep-id --extra-keys "cell.metadata.execution"

export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
# pip need not compile every file (a minute): Python compiles what is used, and keeps it; what the
# first answer uses, at the end of the set-up.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup setup-scale setup-documents setup-site run lab site site-check translations fast test lines evaluate bench results hub outputs format

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1  /p' Makefile
	@echo 'A cell may take two hours; CELL_TIMEOUT=14400 (seconds) with any of them gives it four.'

setup: .venv/.ready ## make .venv and install requirements.txt into it

setup-scale: .venv/.ready-scale ## the same, and requirements-scale.txt (400 MB more)

setup-documents: .venv/.ready-documents ## the same as setup, and requirements-documents.txt (100 MB more)

setup-site: .venv/.ready-site ## the same as setup, and requirements-site.txt (250 MB more)

.venv/.ready: requirements.txt $(wildcard requirements/*.txt) constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}; try `make PYTHON=python3.11`")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python tools/install.py $(GROUPS) $(PIP_ARGS)
	$(PIP) --no-deps --editable .
	$(BIN)/python -m pip check
	$(TIMED) $(BIN)/python -c "import langchain_huggingface, helpers.index, helpers.score, helpers.rerank"
	touch $@

.venv/.ready-%: .venv/.ready requirements-%.txt
	@$(BIN)/python tools/install.py $* $(PIP_ARGS)
	$(BIN)/python -m pip check
	touch $@

run: setup $(if $(filter $(SCALE),$(NOTEBOOKS)),setup-scale) $(if $(filter $(DOCUMENTS),$(NOTEBOOKS)),setup-documents) ## print one reranked answer, then execute notebooks 01 to 03 (NOTEBOOKS="..." for others) into pages
	@$(BIN)/python -m helpers; answered=$$?; $(BIN)/python tools/execute.py $(NOTEBOOKS) && exit $$answered

lab: setup ## open the notebooks in JupyterLab (06 and 07 want `make setup-scale` before, 08 `make setup-documents`)
	$(BIN)/jupyter lab notebooks

site: setup-site ## README, notebooks and guide as a site: build/site/index.html
	$(BIN)/python tools/pages.py

site-check: setup-site ## the site in a browser (Chromium or Chrome), wide and narrow, light and dark (some minutes)
	SITE_CHECK=1 $(BIN)/pytest tests/tools/test_pages.py

translations: setup-site ## README and notebooks in other languages, from translations/; says what is missing
	@$(BIN)/python tools/translate.py

fast: setup-scale setup-documents setup-site ## lint, and the tests that are not slow
	$(TIMED) $(BIN)/ruff check .
	$(TIMED) $(BIN)/ruff format --check .
	$(TIMED) $(STRIP) --verify notebooks/*.ipynb
	$(TIMED) $(BIN)/pytest tests -m "not slow" --durations=10

test: fast ## everything that CI runs
	$(TIMED) env OMP_NUM_THREADS=1 $(BIN)/pytest tests -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations=20

lines: ## lines of Python by folder; fails above a budget
	@find helpers tools tests -name '*.py' -exec wc -l {} + | awk '$$2 != "total" { \
	    folder = $$2; sub("/[^/]*$$", "", folder); sub("^tests/.*", "tests", folder); \
	    lines[folder] += $$1; if (folder != "tests") lines["all but tests"] += $$1 } \
	  END { most["helpers"] = 1355; most["all but tests"] = 8850; most["tests"] = 8400; \
	    for (name in lines) { \
	      printf("%-17s %5d%s\n", name, lines[name], (name in most) ? " of " most[name] : "") | "sort"; \
	      if (name in most && lines[name] > most[name]) over = 1 } \
	    exit over }'

evaluate: setup ## the table of metrics (QUESTIONS=my.jsonl CORPUS=my.txt for your own; SPLIT=dev or test, PRECISION=auto)
	$(BIN)/python -m helpers.measure.quality --profile "$(PROFILE)" $(if $(QUESTIONS),--questions "$$QUESTIONS") $(if $(CORPUS),--corpus "$$CORPUS") $(if $(SPLIT),--split "$(SPLIT)") $(if $(PRECISION),--precision "$(PRECISION)")

bench: setup-scale ## every way of scoring and every kind of index, beside the machine's limit (half an hour; DATA=folder with qa/ for a bigger index)
	$(BIN)/python -m helpers.scale.bench $(if $(DATA),--data "$$DATA")

results: setup-scale ## measure anew what data/results holds, but for bench's part (an hour; DATA=folder with speeches/, span_qa/, qa/ and scifact/)
	@test -n "$(DATA)" || { echo "DATA is not set: expected the folder of the texts that are not in the repository (data/README.md)"; exit 1; }
	{ git describe --always --dirty --exclude '*'; sha256sum data/reranker/model.safetensors; nproc; uname -m; $(BIN)/pip freeze | grep -E '^(torch|transformers|sentence-transformers|faiss-cpu|langchain-core)=='; } > data/results/made_on.txt
	$(BIN)/python -m helpers.measure.ranking --data "$$DATA"
	$(BIN)/python -m helpers.measure.reading
	$(BIN)/python -m helpers.measure.sweep
	$(BIN)/python -m helpers.measure.windows "$$DATA/qa/squad_dev_v1.1.json" --precision auto --out data/results/windows.csv
	$(BIN)/python -m helpers.measure.beir "$$DATA/scifact" --words 20 --precision auto --out data/results/scifact.csv
	$(BIN)/python -m helpers.scale.precision --out data/results/precision.csv
	$(BIN)/python tools/figures.py

hub: setup ## the models of LangChain's page from the Hugging Face hub, and whether its answer of 2024 holds
	$(BIN)/python tools/hub_answer.py
	RERANKER_PROFILE=page $(MAKE) run

outputs: setup-scale setup-documents ## execute every notebook and commit-ready outputs into notebooks/
	$(BIN)/python tools/execute.py $(ALL)
	cp $(foreach n,$(ALL),build/notebooks/$(n).ipynb) notebooks/
	$(STRIP) notebooks/*.ipynb

format: setup ## format modules and notebooks
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
