# Each target makes the virtual environment first where it is missing or requirements.txt has changed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# Tests go to one process per core, each file or notebook to one of them, and every process keeps to one thread.
SHARED := -n logical --maxprocesses 8 --dist loadfile
ALONE := OMP_NUM_THREADS=1

.PHONY: help reproduce table1 test test-kernels notebooks wheel mutations nightly lint lock paper site bench

# Times are of two cores, after installation, which downloads some gigabytes.
help:
	@echo "make reproduce     the whole programme on the embedded digits, from nothing: 17 notebooks with tiny nets, into smoke/ (4 minutes)"
	@echo "make table1        the study's Table 1 from the committed records (10 seconds); TRAIN=1 trains what is missing (days, if all is)"
	@echo "make test          lint, tests, and every notebook checked against its committed outputs, without training (8 minutes)"
	@echo "make test-kernels  the numerical tests once more, by other kernels than this machine would choose: as on other machines (2 minutes)"
	@echo "make notebooks     the last part of make test alone (2 minutes)"
	@echo "make lint          ruff, and mypy on the public names (20 seconds the first time)"
	@echo "make wheel         the package as a wheel, in dist/ (seconds)"
	@echo "make mutations     one-line defects, each of which a test must catch (an hour)"
	@echo "make nightly       runs under kills and a full disk (an hour)"
	@echo "make lock          requirements.txt anew, from the ranges in pyproject.toml (minutes)"
	@echo "make paper         the PDF and its supplement, from the committed results (a minute; needs LaTeX)"
	@echo "make site          notebooks, docs and reproduction table as pages, with every link checked, in build/site (a minute)"
	@echo "make bench         speed and memory on this machine (half an hour)"

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
	  "faeval needs Python 3.11 or newer, not %s; try: make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

reproduce: $(STAMP)
	$(BIN)/python -m faeval_core reproduce --profile smoke

table1: $(STAMP)
	@$(BIN)/python -m faeval_core table1 $(if $(TRAIN),--train)

lint: $(STAMP)
	$(BIN)/ruff check faeval_core tests cookbook $(wildcard benchmarks) docs/site
	$(BIN)/ruff format --check --quiet faeval_core tests cookbook $(wildcard benchmarks) docs/site
	$(BIN)/mypy --no-error-summary

test: lint tests notebooks

.PHONY: tests
tests: $(STAMP)
	$(ALONE) $(BIN)/python -m pytest $(SHARED) --ignore tests/test_engines.py tests
	$(ALONE) $(BIN)/python -m pytest tests/test_engines.py

# reproduce_all.ipynb runs all of them; what it shows is compared by tests/test_notebooks.py
notebooks: $(STAMP)
	$(ALONE) FAEVAL_TRAIN=0 $(BIN)/python -m pytest $(SHARED) --nbval-lax --nbval-current-env --nbval-cell-timeout 600 notebooks

test-kernels: $(STAMP)
	$(ALONE) ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest $(SHARED) -m numerical tests

wheel: $(STAMP)
	rm -rf build/lib dist
	$(BIN)/python -m pip --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist .

mutations: $(STAMP)
	$(BIN)/python tests/mutations.py $(NAMES)

nightly: $(STAMP)
	@for file in tests/nightly/*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done

# Versions stay as they are; NEW=1 takes the newest that pyproject.toml allows. Left out are pip, and the packages of CUDA and
# Triton: torch names each of them in one version itself, where its build needs them, and a build for the CPU or a Mac has no use for
# two gigabytes of them, or cannot install them at all.
lock: $(STAMP)
	@mkdir -p build && rm -f build/lock.txt
	@$(if $(NEW),true,grep -E '^[a-z0-9._-]+==' requirements.txt) > build/constraints.txt
	$(BIN)/pip-compile --quiet --all-extras --strip-extras --allow-unsafe --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --no-emit-trusted-host --constraint build/constraints.txt --output-file build/lock.txt pyproject.toml
	@{ sed '/^-e \.$$/q' requirements.txt; echo; grep -E '==' build/lock.txt | grep -vE '^(nvidia-|cuda-|triton==|pip==)'; } > build/requirements.txt
	mv build/requirements.txt requirements.txt

paper: $(STAMP)
	$(BIN)/python -c 'from pathlib import Path; from faeval_core import latex; latex.write(Path("results"), Path("paper"))'
	@command -v latexmk >/dev/null || { echo "make paper needs LaTeX with latexmk (Debian: latexmk texlive-latex-extra lmodern); paper/generated is up to date" >&2; exit 1; }
	cd paper && latexmk -pdf -interaction=nonstopmode -halt-on-error -outdir=build main.tex supplement.tex
	cp paper/build/main.pdf paper/build/supplement.pdf paper/
	@echo "paper/main.pdf paper/supplement.pdf"

# A warning ends it. With Chromium installed, each page is also opened, on a telephone's width and others.
site: $(STAMP)
	rm -rf build/site build/doctrees
	$(ALONE) $(BIN)/python -m sphinx -b html -q -W -c docs/site -d build/doctrees . build/site
	$(ALONE) FAEVAL_SITE=build/site $(BIN)/python -m pytest tests/test_site.py
	@echo "build/site/index.html"

bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/scaling.py
