# make demo: heatmaps of the sample images.   make test: every gate.   Both set up what they need in .venv.
# make oracle: all methods against captum, grad-cam and torchcam, and all of torchvision's classifiers (about half an hour).
# make bench: how fast camcli is, against the bare network and against its peers (about an hour; ARGS=--quick tries it out).
# make soak: hundreds of kills, injected faults, a hundred thousand images (about three hours). make fuzz: 200,000 odd images.
# make profile: where the time of a run goes, stage by stage.
# PYTHON chooses the interpreter, VENV the environment's place.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test oracle soak fuzz bench profile format clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("camcli needs Python 3.11 or newer; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/camcli run sample_images -o demo
	@echo "Look at demo/overlays, and at demo/predictions.csv."

test: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@log=$$(mktemp); echo "mypy, lint-imports and the checks of JavaScript run beside the tests; they are shown at the end."; \
	{ $(BIN)/mypy && $(BIN)/lint-imports && tests/javascript/check.sh; } > $$log 2>&1 & gates=$$!; \
	$(BIN)/python -m pytest -n 2 --dist worksteal --timeout 600; tests=$$?; \
	wait $$gates; gates=$$?; cat $$log; rm $$log; exit $$((tests | gates))

oracle: $(VENV)/.installed-dev
	$(BIN)/python -m tests.oracles --write docs/oracle.md
	$(BIN)/python -m pytest -m zoo

soak: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m soak

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.bench $(ARGS)

profile: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.stage_times $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) tests/javascript/node_modules demo heatmaps .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
