# Two commands do all the set-up: `make demo` and `make test`. They need python3 (3.11 or newer) and make.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TOOLS := .venv/.tools

.PHONY: demo test slow lowest check types site format native clean

demo: $(STAMP)
	$(BIN)/qkv demo

test: $(TOOLS)
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

slow: $(TOOLS)
	$(BIN)/python -m pytest -m slow

# The oldest versions that pyproject.toml accepts, in an environment of their own (a CUDA build of torch: gigabytes).
# Old distributions use deprecated names of newer ones that they import: those warnings are ignored. Triton 3.2 imports
# setuptools late, which then wants to replace distutils.
lowest:
	test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python tests/lowest_bounds.py > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-lowest/requirements.txt
	PYTHONPATH=src SETUPTOOLS_USE_DISTUTILS=stdlib .venv-lowest/bin/python -m pytest -W ignore::DeprecationWarning $(TESTS)

check: $(TOOLS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory types site

# The types of the page's modules (JSDoc), and axe-core for the tests in Chromium; both come from npm.
types:
	@if ! command -v npm >/dev/null; then \
	  echo "skipped: npm is not installed, so the types of the page's modules are not checked"; \
	elif ! npm install --prefix tests/browser --no-package-lock --no-audit --no-fund --silent; then \
	  echo "skipped: npm could not install typescript, so the types of the page's modules are not checked"; \
	else tests/browser/node_modules/.bin/tsc -p tests/browser/tsconfig.json; fi

# The documentation as pages, in site/; a link that leads nowhere is an error (but not with --quiet).
site: $(TOOLS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(TOOLS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The C++ engine again, after a change to its sources; installing builds it too.
native:
	cmake -S . -B build/native
	cmake --build build/native

# The demo needs the library and matplotlib; the tools for tests and checks take twice the disk.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qkv needs Python 3.11 or newer; say PYTHON=/path/to/python3.11 make ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing qkv, torch and matplotlib into .venv: more than 1 GB on disk, several minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

$(TOOLS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lowest site .pytest_cache .ruff_cache .hypothesis demo tests/browser/node_modules
