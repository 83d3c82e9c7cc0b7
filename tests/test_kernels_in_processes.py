"""Kernels in threads, in forked and spawned processes, and with every kind of cache on disk."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import torchbce
from torchbce import functional
from torchbce.backends.cpu import threads as cpu_threads
from torchbce.functional import binary_cross_entropy_with_logits as bce

N = 7 * 32 * 1024 + 5


@pytest.fixture(autouse=True)
def _leave_the_threads_as_they_were() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def example() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, generator=generator) * 4
    return x, torch.rand(N, generator=generator)


def results(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Sums and gradients of many chunks, with and without options."""
    x, y = example()
    found = []
    for options in ({}, {"weight": y + 0.5, "mask": y > 0.2, "reduction": "weighted_mean"}):
        for loss in (bce, functional.sigmoid_focal_loss):
            logits = x.to(dtype).requires_grad_()
            value = loss(logits, y, **options)
            found += [value.detach(), *torch.autograd.grad(value, logits)]
    return found


# ------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("openmp", [True, False])
def test_the_same_bits_for_any_number_of_threads(
    dtype: torch.dtype, openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not openmp:
        monkeypatch.setattr(cpu_threads, "_openmp", lambda: None)
    torch.set_num_threads(1)
    expected = results(dtype)
    for threads in (2, 3, 7):
        torch.set_num_threads(threads)
        for _ in range(3):
            assert all(map(torch.equal, results(dtype), expected))


def test_threads_are_pytorchs_own_on_linux() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("PyTorch brings another OpenMP elsewhere")
    before = threading.active_count()
    torch.set_num_threads(2)
    results()
    assert cpu_threads._openmp() is not None
    assert threading.active_count() == before


def test_many_threads_at_once() -> None:
    expected = results()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(5):
            if not all(map(torch.equal, results(), expected)):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


def test_a_backend_is_named_for_one_thread() -> None:
    names: list[str] = []
    with torchbce.backend("reference"):
        thread = threading.Thread(
            target=lambda: names.append(torchbce.backend_for(torch.zeros(2)).name)
        )
        thread.start()
        thread.join()
    assert names == ["numba"]


# ----------------------------------------------------------------------------------- processes


class Losses(Dataset[Tensor]):
    """A data set whose worker computes a loss."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Tensor:
        x, y = example()
        torch.set_num_threads(2)  # for the kernel alone: PyTorch's own operations would hang
        value = bce(x, y)
        torch.set_num_threads(1)
        return value


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_in_workers_of_a_data_loader(context: str) -> None:
    x, y = example()
    torch.set_num_threads(2)
    expected = bce(x, y)  # and the parent has threads
    loader = DataLoader(
        Losses(), batch_size=2, num_workers=2, multiprocessing_context=context, timeout=60
    )
    assert [batch.tolist() for batch in loader] == [[expected.item()] * 2] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_in_a_forked_child_with_threads_of_its_own() -> None:
    torch.set_num_threads(3)
    x, y = example()
    weight, x = y + 0.5, x.requires_grad_()

    def losses() -> list[float]:
        # Nothing of PyTorch's that runs in parallel: after a fork that waits for ever.
        return [bce(x, y).item(), functional.sigmoid_focal_loss(x, y, weight=weight).item()]

    expected = losses()
    child = os.fork()
    if child == 0:
        ended = threading.Timer(30, lambda: os._exit(3))
        ended.daemon = True
        ended.start()
        try:
            os._exit(0 if losses() == expected and cpu_threads._pool is not None else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


FORK = """
import os, threading, torch
from torchbce.functional import asymmetric_loss, binary_cross_entropy_with_logits as bce
x = torch.zeros(8)
bce(x, x)
thread = threading.Thread(target=lambda: asymmetric_loss(x, x))
thread.start()
threading.Event().wait(0.5)  # in the middle of its compilation
child = os.fork()
if child == 0:
    bce(x, x.bool())  # another kernel
    os._exit(0)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_child_forked_in_the_middle_of_a_compilation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout == "0\n", done.stderr


# ----------------------------------------------------------------------------------- the cache

SCRIPT = """
import sys, torch
from torchbce.functional import binary_cross_entropy_with_logits as bce
x = torch.linspace(-30, 30, 1003)
for name in sys.argv[1].split(","):
    y = (torch.arange(1003) % 3 == 0).to(getattr(torch, name))
    value = bce(x.requires_grad_(), y)
    print(name, value.item().hex(), torch.autograd.grad(value, x)[0].sum().item().hex())
    try:
        bce(x, (y.to(torch.int16) * 255).to(y.dtype))
    except ValueError as error:
        print(name, str(error).split(";")[0])
"""


def run(names: str, cache: Path, source: Path | None = None, **environment: str) -> list[str]:
    """What a fresh process prints, sorted, without what names a dtype."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, names],
        env={
            **os.environ,
            "NUMBA_CACHE_DIR": str(cache),
            **({"PYTHONPATH": str(source)} if source else {}),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.mark.slow
def test_a_kernel_from_the_disk_calls_its_own_loops(tmp_path: Path) -> None:
    """Compiled in one order and loaded in another, beside kernels compiled now."""
    first = run("uint8,float32", tmp_path)
    assert list(tmp_path.rglob("*.nbc"))
    then = run("bool,int64,uint8,float32", tmp_path)
    assert set(first) <= set(then)
    numbers = {tuple(line.split()[1:]) for line in then if "target" not in line}
    assert len(numbers) == 1
    assert sum("is 255" in line for line in then) == 3  # but for bool, where any byte is true


@pytest.mark.slow
def test_without_a_cache_or_with_a_damaged_one(tmp_path: Path) -> None:
    expected = run("float32", tmp_path / "good")
    nowhere = tmp_path / "file"
    nowhere.write_text("a file, and no folder")
    source = tmp_path / "read only"
    shutil.copytree(
        Path(torchbce.__file__).parent,
        source / "torchbce",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    # A file where each folder for a cache would be: as unwritable for root as for anybody.
    (source / "torchbce" / "backends" / "cpu" / "__pycache__").write_text("")
    home = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run("float32", nowhere, source, **home) == expected
    for path in (tmp_path / "good").rglob("*.nb*"):
        path.write_bytes(path.read_bytes()[:100])
    assert run("float32", tmp_path / "good") == expected


@pytest.mark.slow
def test_changed_code_is_compiled_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(Path(torchbce.__file__).parent, source / "torchbce")
    cache = tmp_path / "cache"
    before = run("float32", cache, source)
    formulas = source / "torchbce" / "backends" / "cpu" / "formulas.py"
    text = formulas.read_text()
    assert text.count("-0.333334088737") == 1
    formulas.write_text(text.replace("-0.333334088737", "-0.343334088737"))
    assert run("float32", cache, source)[0] != before[0]


@pytest.mark.slow
def test_the_jit_switched_off_is_the_definition(tmp_path: Path) -> None:
    asked = "import torch, torchbce; print(torchbce.backend_for(torch.zeros(2)).reason)"
    done = subprocess.run(
        [sys.executable, "-c", asked],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "NUMBA_DISABLE_JIT is set"
