# Each target makes the virtual environment first where it is missing or requirements.txt has changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# Tests go to one process per core, each file or notebook to one of them, and every process keeps to one thread.
SHARED := -n logical --maxprocesses 8 --dist loadfile
ALONE := OMP_NUM_THREADS=1

.PHONY: help reproduce test test-kernels lint paper bench

help:
	@echo "make reproduce  every notebook on the embedded digits, from nothing, in minutes"
	@echo "make test       lint, tests, and every notebook checked against its committed outputs, without training"
	@echo "make test-kernels  the numerical tests once more, by other kernels than this machine would choose: as on other machines"
	@echo "make paper      the PDF and its supplement, from the committed results (needs LaTeX)"
	@echo "make bench      speed and memory on this machine"
	@echo "make lint       ruff alone"

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "faeval needs Python 3.11 or newer, not %s; try: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

reproduce: $(STAMP)
	$(BIN)/python -m faeval_core reproduce --profile smoke

lint: $(STAMP)
	$(BIN)/ruff check faeval_core tests cookbook $(wildcard benchmarks)
	$(BIN)/ruff format --check --quiet faeval_core tests cookbook $(wildcard benchmarks)

test: lint
	$(ALONE) $(BIN)/python -m pytest $(SHARED) --ignore tests/test_engines.py tests
	$(ALONE) $(BIN)/python -m pytest tests/test_engines.py
	$(ALONE) FAEVAL_TRAIN=0 $(BIN)/python -m pytest $(SHARED) --nbval-lax --nbval-current-env --nbval-cell-timeout 600 reproduce_all.ipynb notebooks

test-kernels: $(STAMP)
	$(ALONE) ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest $(SHARED) -m numerical tests

paper: $(STAMP)
	$(BIN)/python -c 'from pathlib import Path; from faeval_core import latex; latex.write(Path("results"), Path("paper"))'
	@command -v latexmk >/dev/null || { echo "make paper needs LaTeX with latexmk (Debian: latexmk texlive-latex-extra lmodern); paper/generated is up to date" >&2; exit 1; }
	cd paper && latexmk -pdf -interaction=nonstopmode -halt-on-error -outdir=build main.tex supplement.tex
	cp paper/build/main.pdf paper/build/supplement.pdf paper/
	@echo "paper/main.pdf paper/supplement.pdf"

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/scaling.py
