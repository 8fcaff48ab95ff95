# `make demo` and `make test` set up everything they need in .venv; nothing global is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 2; }
	@echo "Installing into $(VENV), once; this may take minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/segic predict --ref examples/reference.jpg examples/reference_mask.png \
	  examples/targets --out outputs/demo
	$(BIN)/python eval.py --benchmark emoji --limit 200 --out outputs/demo/emoji
	@echo
	@echo "Predictions: outputs/demo/index.html   Evaluation: outputs/demo/emoji/sheet.png, result.json"

test: lint
	$(BIN)/python -m pytest -q

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

# The documentation as a site with search: open it with `python -m http.server --directory site`.
docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs build dist site *.egg-info
