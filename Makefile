# The whole ceremony: `make study` shows what isoloss does, `make check` and `make test` are all CI runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: study test check bench calibrate cluster faults triton-check install lock
study: install
	$(BIN)/isoloss run quickstart
	@echo "open results/quickstart/report/index.html"

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# Against nanoGPT itself with: make bench NANOGPT=path/to/checkout
bench: install
	$(BIN)/python -m benchmarks train $(if $(NANOGPT),--nanogpt $(NANOGPT))

# Harms a study at every operation on its files, not at a seeded few as the tests do; writes docs/reliability.md.
faults: install
	$(BIN)/python -m pytest tests/faults --all-faults --numprocesses 2 --dist worksteal --durations 20

# Triton's kernels without a GPU: interpreted against torch, and compiled for sm_80, sm_90 and sm_100. A gigabyte of its own.
triton-check: .venv-triton/installed
	TRITON_INTERPRET=1 .venv-triton/bin/python -m pytest tests/triton/test_interpreted.py
	.venv-triton/bin/python -m pytest tests/triton/test_compiled.py -rP

.venv-triton/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip install --quiet --constraint requirements.lock --editable '.[triton]' pytest
	@touch $@

# Trains the same study on SLURM, on Ray and here, with a worker killed, a job queued again and a command that comes back;
# docs/clusters.md says how to have a SLURM of one machine.
cluster: install
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev,slurm,ray]'
	$(BIN)/python -m pytest tests/test_clusters.py --durations 0

# Simulates known truths for docs/statistics.md; nearly an hour on two cores.
calibrate: install
	$(BIN)/python -m calibration

check: install
	$(BIN)/ruff format --check src tests benchmarks calibration
	$(BIN)/ruff check src tests benchmarks calibration
	$(BIN)/pyright
	$(BIN)/lint-imports

install: .venv/installed

.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	@touch $@

# Pins what is installed now; torch keeps its plain version, so that every machine gets the build its index offers.
lock:
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock
