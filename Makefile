# `make demo` and `make test` first set up the virtual environment that they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written after a successful install, so that an interrupted one is repeated.
INSTALLED := $(VENV)/installed
# The oldest supported versions, in an environment of their own.
OLDEST := .venv-oldest
OLDEST_INSTALLED := $(OLDEST)/installed

# The number of test processes; `auto` is one per core. All of them share Numba's cache.
WORKERS ?= auto
PYTEST := $(BIN)/pytest -q -n $(WORKERS) --dist worksteal

.PHONY: help install demo test test-rest test-all test-oldest test-triton check format docs dist smoke bench exact gpu-check gpu-bench gpu-session clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(INSTALLED)  ## make .venv and install the package with all extras

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "torchbce needs Python 3.11 or later; try: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,dev,docs]'
	@touch $@

demo: $(INSTALLED)  ## train, predict and evaluate on a data set that needs no network
	$(BIN)/torchbce demo --overwrite

test: $(INSTALLED)  ## run the tests, doctests and examples that protect the behaviour (5 minutes)
	$(PYTEST) -m "not slow"

test-rest: $(INSTALLED)  ## run the tests that `make test` leaves out, and interpret the GPU kernels
	$(PYTEST) -m slow
	OMP_NUM_THREADS=1 $(PYTEST) tests/gpu --confcutdir=tests/gpu

test-all: test test-rest  ## run every test (20 minutes on two cores)

# Left out: the Triton kernels, since Triton is not installed here, the test suites of other projects,
# whose current releases need newer versions, the figures of the README, losses of sharded tensors, as
# PyTorch 2.10 cannot shard softplus, and an example that runs with warnings as errors, as PyTorch 2.10
# warns of its own checkpoints.
test-oldest: $(OLDEST_INSTALLED)  ## run the tests with the oldest supported versions
	$(OLDEST)/bin/pytest -q -n $(WORKERS) --dist worksteal -p no:cacheprovider \
		--ignore=tests/test_kernels_ahead.py --ignore=tests/test_dropin_peers.py \
		--ignore=tests/test_readme.py --ignore=tests/test_sharded.py \
		--deselect='tests/test_examples.py::test_label_shards[1]' $(TESTS)

# On Linux, PyTorch from PyPI includes 3 GB of CUDA libraries. To install it for the CPU only:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test-oldest PYTHON=python3.11
$(OLDEST_INSTALLED): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints-oldest.txt \
		-e '.[cli]' pytest pytest-xdist hypothesis mpmath
	@touch $@

# Triton in another version than that of PyTorch, which it is otherwise installed with.
OTHER_TRITON := .triton-$(TRITON)
TRITON ?= 3.6.0
test-triton: $(INSTALLED)  ## compile and interpret the GPU kernels with another Triton: TRITON=3.6.0
	test -d $(OTHER_TRITON) || $(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
		--target $(OTHER_TRITON) triton==$(TRITON)
	PYTHONPATH=$(OTHER_TRITON) $(PYTEST) tests/test_kernels_ahead.py tests/test_gpu_launches.py
	PYTHONPATH=$(OTHER_TRITON) OMP_NUM_THREADS=1 $(PYTEST) tests/gpu --confcutdir=tests/gpu

check: $(INSTALLED)  ## formatter, linter and type checker
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(INSTALLED)  ## format the code and apply the linter's safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)  ## build the documentation into site/; a warning is an error
	$(BIN)/python tools/build_docs.py

dist: $(INSTALLED)  ## build the wheel and the source distribution into dist/, and check them
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# On Linux, PyTorch from PyPI includes 3 GB of CUDA libraries. To install it for the CPU only:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make smoke
SMOKE := build/smoke
SMOKE_LOSS := from torch import tensor; import torchbce; \
	print(torchbce.BCEWithLogitsLoss()(tensor([-20.0]), tensor([0])).item())
smoke: dist  ## install the wheel into an empty environment, without and with extras, and run it
	rm -rf $(SMOKE) && $(PYTHON) -m venv $(SMOKE)
	$(SMOKE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd $(SMOKE) && bin/python -W error -c '$(SMOKE_LOSS)' && bin/torchbce --version
	$(SMOKE)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[cli]"
	cd $(SMOKE) && bin/torchbce demo > /dev/null

bench: $(INSTALLED)  ## measure the figures of README and docs (needs the data sets; an hour)
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/linear.py
	$(BIN)/python benchmarks/pairwise.py
	$(BIN)/python benchmarks/delicious.py
	$(BIN)/python benchmarks/classifier.py
	$(BIN)/python benchmarks/labels.py
	$(BIN)/python benchmarks/decisions.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/ends.py
	$(BIN)/python benchmarks/session.py
	$(BIN)/python benchmarks/gpu_code.py
	$(BIN)/python benchmarks/gpu_host.py
	$(BIN)/python benchmarks/report.py

exact: $(INSTALLED)  ## the errors of the kernels over all 2^32 float32 logits (minutes)
	$(BIN)/python benchmarks/exact.py

# `gpu-check` and `gpu-bench` use a Python that has PyTorch for the GPU, Triton, numpy and pytest:
# make gpu-check PYTHON=/path/to/python3
gpu-check:  ## run the tests of the GPU kernels on a GPU
	@$(MAKE) --no-print-directory --keep-going --jobs=8 --output-sync=target $(GPU_CHECKS)

# One process per file, since each of hundreds of kernels takes half a second to compile. The files
# that need a GPU take longest and are started first.
DEVICE_TESTS := $(wildcard tests/gpu/test_device*.py)
GPU_TESTS := $(DEVICE_TESTS) $(filter-out $(DEVICE_TESTS),$(wildcard tests/gpu/test_*.py))
GPU_CHECKS := $(GPU_TESTS:tests/gpu/%.py=gpu-check-%)
.PHONY: $(GPU_CHECKS)
$(GPU_CHECKS): gpu-check-%:
	TORCHBCE_GPU=1 OMP_NUM_THREADS=2 PYTHONPATH=src $(PYTHON) -m pytest -q -p no:cacheprovider \
		tests/gpu/$*.py --confcutdir=tests/gpu

gpu-session:  ## on a GPU: what fails first, measurements, then all tests; logs in OUT (10 minutes)
	$(PYTHON) benchmarks/gpu_session.py $(if $(OUT),--out $(OUT))

gpu-bench:  ## measure the GPU kernels and write benchmarks/results/gpu-NAME.md (10 minutes)
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py

clean:  ## remove .venv and what the targets made
	rm -rf $(VENV) $(OLDEST) .triton-* torchbce-demo build dist site .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
