# Needs nothing but Python >= 3.11. `make quickstart` installs and runs the main job offline; `make test` runs the suite.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart test nightly lint clean

quickstart: $(VENV)/.installed
	$(BIN)/mnasnet networks
	$(BIN)/mnasnet info a1
	$(BIN)/mnasnet predict cifar10 weights/demo/ship.png weights/demo/airplane.png --top 3
	$(BIN)/mnasnet predict trashnet weights/demo/trashnet-*.jpg --top 2
	$(BIN)/mnasnet export cifar10 -o $(VENV)/a1.tflite
	$(BIN)/mnasnet export cifar10 --quantize int8 --calibrate shapes:200@32 -o $(VENV)/a1_int8.tflite
	$(BIN)/python benchmarks/run_peers.py

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist loadfile

nightly: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist load -m nightly

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed setup.py
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
