# make quickstart: set up, run the shipped study, print its table.   make test: set up, run every check that CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FOUR_BITS := $(VENV)/four-bits

.PHONY: quickstart guide test sweep-tests sweeper-tests trainer-tests data-tests other-tests check slow soak benchmark format

quickstart: $(READY)
	$(BIN)/sweeper run quickstart

# The guide's claims: every study that tests some, one after the other, up to 25 minutes each on two idle cores.
GUIDE := clean overfitting noise binary margins quality architectures

guide: $(READY)
	for name in $(GUIDE:%=guide-%); do \
	  $(BIN)/sweeper run $$name && \
	  $(BIN)/sweeper records $$name --output studies/results/$$name/records.jsonl.gz || exit 1; \
	done
	$(BIN)/python -m dashboards.report.guide

# Parts of about the same length, the longest first, as a test has one thread; more than cores, as some wait, and as a
# part that is left alone at the end has one core.
test: $(READY)
	$(MAKE) --jobs=5 --keep-going sweep-tests sweeper-tests trainer-tests data-tests other-tests check

# What is read, measured and told of runs; the rest trains them.
DATA := tests/trainers/components tests/trainers/data tests/trainers/evaluation

data-tests: $(READY)
	$(BIN)/python -m pytest $(DATA)

trainer-tests: $(READY)
	$(BIN)/python -m pytest tests/trainers $(DATA:%=--ignore=%)

SWEEPS := tests/sweeper/loop tests/sweeper/folder tests/sweeper/ownership tests/sweeper/search tests/sweeper/measuring

sweep-tests: $(READY)
	$(BIN)/python -m pytest $(SWEEPS)

sweeper-tests: $(READY)
	$(BIN)/python -m pytest tests/sweeper $(SWEEPS:%=--ignore=%)

other-tests: $(READY)
	$(BIN)/python -m pytest --ignore=tests/sweeper --ignore=tests/trainers

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(READY) $(FOUR_BITS)
	$(BIN)/python -m pytest -m "slow or gpu"
	PYTHONPATH=$(FOUR_BITS) $(BIN)/python -m pytest -m slow tests/trainers/pack/test_four_bits.py

soak: $(READY)
	$(BIN)/python -m pytest -m soak

benchmark: $(READY)
	$(BIN)/python -m tests.benchmarks.commands
	$(BIN)/python -m tests.benchmarks.evaluation
	$(BIN)/python -m tests.benchmarks.orchestration
	$(BIN)/python -m tests.benchmarks.comparison

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first and alone: left to the resolver it can bring gigabytes of CUDA packages that a CPU does not need.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,postgres,ui]"
	touch $(READY)

# Beside the environment, not in it: where bitsandbytes can be found every process that loads PEFT takes a second longer.
$(FOUR_BITS): $(READY)
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --target $(FOUR_BITS) bitsandbytes
