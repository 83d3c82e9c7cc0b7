"""Settings of the whole suite, and what several of its files begin with."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# A process of its own, in which Triton interprets its kernels: see `make test`.
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
