"""Settings of the whole suite, and fixtures that several of its files use."""

import os
import warnings
from collections.abc import Iterator

import pytest

# `pytest -n` runs several processes at once. Each computes, and lets the processes that it starts
# compute, with its share of the cores: OpenMP's threads spin while they wait, so that two processes
# with two threads each take several times as long on two cores. PyTorch reads this when imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]) or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(share))

import torch
from hypothesis import settings

# These run in processes of their own, in which Triton interprets its kernels: see `make test-rest`.
collect_ignore = ["gpu"]

# A loaded machine is slow and not wrong: no example fails for the time it took.
settings.register_profile("torchbce", deadline=None)
settings.load_profile("torchbce")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        yield
    torch._dynamo.reset()
