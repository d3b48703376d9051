# Two commands do the work: `make reproduce` and `make test`. `make help` lists the rest.
SHELL := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: reproduce book test test-slow lint bench clean help

PROFILE ?= digits
WORKERS ?= 2
DEVICE ?= cpu
# The first command that runs and is new enough; a shim that is on the path but does not run is passed over.
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.11 python3; do $$name -c "$(RECENT)" 2>/dev/null && echo $$name && break; done)
NO_PYTHON = no Python 3.11 or newer (PYTHON='$(PYTHON)'): install one or name it, make PYTHON=/path/to/python3.11

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What to show of the installation: downloads of megabytes, and the step that takes long without a word.
LARGE := /Downloading .* MB/ {print "  " $$2, $$3, $$4; fflush()} /^Installing/ {print "  unpacking"; fflush()}
SETTINGS := "configs/$(PROFILE).yaml"
COMMITTED := "data/results/$(PROFILE)"
RECOMPUTED := "_build/results/$(PROFILE)"
NOTEBOOKS := "_build/notebooks/$(PROFILE)"

reproduce: .venv/.installed ## recompute PROFILE (digits), build the book, compare with the committed numbers
	$(BIN)/hglad run $(SETTINGS) --results $(RECOMPUTED) --notebooks $(NOTEBOOKS) --book .
	$(BIN)/hglad compare $(RECOMPUTED) $(COMMITTED)

book: .venv/.installed ## build the book of PROFILE (digits) from its committed results
	$(BIN)/hglad run $(SETTINGS) --results $(COMMITTED) --notebooks $(NOTEBOOKS) --book .

# $(call part,NAME,COMMAND): run it, and note how long it took for the end of `make test`.
part = @begin=$$(date +%s); { $(2); } && printf '%-16s %4d s\n' '$(1)' $$(($$(date +%s) - begin)) | tee -a $(TEST)/times
TEST := _build/test

test: export TQDM_DISABLE = 1
test: export OMP_NUM_THREADS = 1
test: export HGLAD_TEST_BUILD = $(abspath $(TEST))
test: ## check style, tests, notebooks from nothing, committed notebooks and book; say how long each part took
	@rm -rf $(TEST) && mkdir -p $(TEST)
	$(call part,installation,$(MAKE) -s .venv/.installed)
	$(call part,style,$(MAKE) -s lint)
	$(call part,smoke notebooks,$(BIN)/hglad run configs/smoke.yaml --results $(TEST)/results --notebooks $(TEST)/notebooks)
	$(call part,book,$(BIN)/hglad book --out $(TEST))
	$(call part,tests,$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m "not slow" tests)
	$(call part,nbval,$(BIN)/python -m pytest -p no:cacheprovider -n $(WORKERS) --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout 120 book/results/digits book/results/digits-search)
	@echo "make test: all passed"; awk '{print; all += $$(NF - 1)} END {printf "%-16s %4d s\n", "all", all}' $(TEST)/times

test-slow: export TQDM_DISABLE = 1
test-slow: export OMP_NUM_THREADS = 1
test-slow: .venv/.installed ## the tests that `make test` leaves out: kills, a cluster, the wheel, whole profiles
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope -m slow tests

lint: .venv/.installed ## check the style of the code and that notebook templates hold no output
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify notebooks/*.ipynb

bench: .venv/.installed ## time fast implementations beside plain ones on DEVICE (cpu), into _build/bench-DEVICE.json
	@mkdir -p _build
	$(BIN)/python benchmarks/bench.py --device $(DEVICE) --json _build/bench-$(DEVICE).json

clean: ## delete everything computed or built; the environment (.venv) stays
	rm -rf _build .pytest_cache .ruff_cache

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# The stamp is written last, so an interrupted installation goes on at the next call: packages that are there at the
# right version are not fetched again.
.venv/.installed: requirements.lock pyproject.toml
	@"$(PYTHON)" -c "$(RECENT)" 2>/dev/null || { echo "$(NO_PYTHON)" >&2; exit 1; }
	@echo "setting up .venv: $$(grep -c == requirements.lock) pinned packages, some minutes; the large ones:"
	@"$(PYTHON)" -m venv .venv
	@set -o pipefail; $(PIP) install --progress-bar off -r requirements.lock | awk '$(LARGE)'
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@$(PIP) check
	@touch $@
