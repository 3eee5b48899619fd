# Everything runs from a virtual environment inside the checkout; the first target that needs it installs it.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# client on a device, server on a server, simulation without the tools of development
EXTRA ?= dev
STAMP := $(VENV)/.installed-$(EXTRA)
# two processes, each with files of its own: fixtures of a module are made once
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: demo test test-all lint generate install clean

demo: $(STAMP) ## the main job, end to end, on the bundled digits
	$(BIN)/dsv demo

test: lint ## what CI runs; its property tests draw the same examples each time
	$(PYTEST) -m "not slow" --hypothesis-profile=ci

test-all: lint ## the slow tests too, and every property test with new random examples
	$(PYTEST)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.generate --check

generate: $(STAMP) ## rewrite generated code and tables
	$(BIN)/python -m deploy.generate

install: $(STAMP)

# uv is what Flower itself depends on; it resolves torch and torchvision together, which pip may not.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.12.20,<0.13"
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[$(EXTRA)]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
