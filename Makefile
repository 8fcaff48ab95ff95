# Every target sets up what it needs in .venv; nothing global is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-compilers lint docs clean

$(VENV)/installed: pyproject.toml
	@$(PYTHON) -c '' || { echo "$(PYTHON) does not run: name a Python with make PYTHON=python3.12 ..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=python3.12 ..."; exit 2; }
	@echo "Installing into $(VENV), once; this may take minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@

# Segment the example photographs and evaluate the emoji model; a few minutes on two CPU cores.
demo: $(VENV)/installed
	$(BIN)/segic predict --ref examples/cat_reference.jpg examples/cat_reference_mask.png --name cat \
	  --ref examples/bird_reference.jpg examples/bird_reference_mask.png --name bird \
	  examples/targets --out outputs/demo
	$(BIN)/segic eval --benchmark emoji --weights emoji-tiny --limit 200 --out outputs/demo/emoji
	@echo
	@echo "Predictions: outputs/demo/index.html   Evaluation: outputs/demo/emoji/sheet.png, result.json"

# Lint, types and every test: up to an hour on two cores.
test: lint
	$(BIN)/python -m pytest -q

# The tests that start no process, build no documentation and compile little: a few minutes on two cores.
test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -q -m 'not slow and not gpu and not compilers and not heavy'

# The tests that compile for TPUs and GPUs, without any; best in an environment of their own: VENV=.venv-compilers.
# Only their files are read, since others need packages that this environment lacks. Those of
# tests/train/test_plan_bounds.py take long and run by name.
test-compilers: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[plan]'
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q -m 'compilers and not slow' $$(grep -rl mark.compilers tests)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

# The documentation as a site with search: open it with `python -m http.server --directory site`.
docs: $(VENV)/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs build dist site *.egg-info
