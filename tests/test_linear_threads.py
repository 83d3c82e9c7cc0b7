"""Chunks in several threads: the values of one thread, and nothing else changes for the caller.

What one thread computes is compared with float64 in test_linear.py. Two threads give the same
bits, whichever of them computes a chunk. More than two add the input's gradient up in another
order, which `check` of test_linear.py allows.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import torchbce
from test_linear import DTYPES, REDUCTIONS, all_options, check, layer, target_of
from torchbce import linear_binary_cross_entropy as linear_bce
from torchbce.backends.cpu import staging
from torchbce.backends.cpu import threads as cpu_threads
from torchbce.linear import chunk_loss, workers
from torchbce.linear.chunks import run_chunks
from torchbce.linear.records import ChunkRequest, Head, LinearOperands, NeedsGrad, Update

ROWS, LABELS, CHUNK = (12,), 300, 7
EVERY = NeedsGrad(True, True, True)
needs_openmp = pytest.mark.skipif(
    not cpu_threads.has_flat_openmp(), reason="this PyTorch has no OpenMP, or a nested one"
)
pytestmark = [needs_openmp, pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def found(
    count: int, form: str = "lists", dtype: torch.dtype = torch.float32, **options: Any
) -> list[Tensor]:
    """Loss and gradients in this many threads."""
    leaves = layer(ROWS, LABELS, 5, dtype)
    target, _ = target_of(form, ROWS, LABELS)
    with threads(count):
        loss = linear_bce(*leaves[:2], target, leaves[2], chunk_labels=CHUNK, **options)
        return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


def state() -> tuple[Any, ...]:
    return (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        workers._flushes_subnormal(),
    )


# ------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["lists", "bool", "soft", "csr", "coo, soft"])
def test_two_threads_compute_the_bits_of_one(form: str, dtype: torch.dtype) -> None:
    for reduction in REDUCTIONS:
        for options in ({}, all_options(ROWS, LABELS)):
            one = found(1, form, dtype, reduction=reduction, **options)
            for _ in range(3):
                assert same(found(2, form, dtype, reduction=reduction, **options), one)


@pytest.mark.parametrize("count", [3, 4, workers.MOST_THREADS, workers.MOST_THREADS + 1])
@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_any_number_of_threads(count: int, backend: str) -> None:
    leaves, options = layer(ROWS, LABELS), all_options(ROWS, LABELS)
    for form in ("lists", "soft"):
        with threads(count):
            check(leaves, *target_of(form, ROWS, LABELS), 0.3, CHUNK, backend, **options)
        with torchbce.backend(backend):
            assert same(found(count, form), found(count, form))


def test_few_chunks() -> None:
    for labels in (1, 2, 3, 4, 5):
        leaves, (target, y) = layer(ROWS, labels), target_of("lists", ROWS, labels)
        for chunk in (1, 2, 4):
            with threads(2):
                check(leaves, target, y, 1.0, chunk)


def test_sizes_that_are_chosen_give_the_bits_of_one_thread() -> None:
    leaves = layer((256,), 9_001, 33)
    target, _ = target_of("lists", (256,), 9_001)
    results = []
    for count in (1, 2, 1, 2):
        with threads(count):
            loss = linear_bce(*leaves[:2], target, leaves[2])
            results.append([loss.detach(), *torch.autograd.grad(loss, leaves)])
    assert all(same(result, results[0]) for result in results)


@pytest.mark.parametrize("name", [n for n in torchbce.__all__ if n.startswith("Fused")])
def test_fused_optimizers(name: str) -> None:
    def trained(count: int) -> list[Tensor]:
        torch.manual_seed(0)
        optimizer = getattr(torchbce, name)(lr=0.1, weight_decay=0.01)
        head = torchbce.LinearBCELoss(
            64, 3_000, chunk_labels=40, fused_optimizer=optimizer, prior=0.01
        )
        x, target = torch.randn(16, 64, requires_grad=True), target_of("lists", (16,), 3_000)[0]
        with threads(count):
            for _ in range(5):
                head(x, target).backward()
        return [*head.state_dict().values(), x.grad]

    one = trained(1)
    assert same(trained(2), one)
    # The lanes of more threads only change the order in which the input's gradient is summed.
    assert same(trained(4)[:-1], one[:-1])


def test_pairs() -> None:
    x, y = (torch.randn(60, 8, requires_grad=True) for _ in range(2))

    def step(count: int) -> list[Tensor]:
        with threads(count):
            loss = torchbce.pairwise_sigmoid_loss(x, y, scale=2.0, bias=-1.0, chunk_pairs=7)
            return [loss.detach(), *torch.autograd.grad(loss, (x, y))]

    assert same(step(2), step(1))


def test_the_input_gradient_is_passed_on_once_and_complete() -> None:
    x, w, b = (t.detach() for t in layer(ROWS, LABELS))
    operands = LinearOperands(dense=target_of("soft", ROWS, LABELS)[1].float())
    passed: list[Tensor] = []
    request = ChunkRequest(
        chunk_labels=CHUNK,
        needs_grad=EVERY,
        on_input_gradient=lambda gradient: passed.append(gradient.clone()),
    )
    with threads(4), torch.no_grad():
        for _ in range(20):
            _, gradients = run_chunks(Head(x, w, b), operands, request)
            (gradient,) = passed
            assert torch.equal(gradient, gradients.input)
            passed.clear()


# -------------------------------------------------------------------------------------- the threads


def test_each_chunk_once_and_those_of_a_lane_in_order() -> None:
    for chunks in (0, 1, 3, 4, 50):
        for count in (1, 2, 4):
            lanes, done = workers.lane_count(chunks, count), list[int]()

            def compute(number: int, done: list[int] = done) -> None:
                time.sleep(1e-4 * (number % 3))
                done.append(number)

            workers.run_workers([compute] * count, chunks, lanes)
            assert sorted(done) == list(range(chunks))
            for lane in range(lanes):
                of_lane = [number for number in done if number % lanes == lane]
                assert of_lane == sorted(of_lane)


@pytest.mark.parametrize("count", [2, 4])
def test_a_thread_without_a_core_holds_up_its_lane_only(count: int) -> None:
    chunks, lanes = 60, workers.lane_count(60, count)
    others = chunks - chunks // lanes  # of the other lanes
    done, all_others_done = list[int](), threading.Event()

    def compute(number: int) -> None:
        if number == 0:
            assert all_others_done.wait(20)
        done.append(number)
        if len(done) == others:
            all_others_done.set()

    workers.run_workers([compute] * count, chunks, lanes)
    assert sorted(done) == list(range(chunks))


def test_each_thread_has_memory_of_its_own_and_no_more_than_needed() -> None:
    # One chunk of logits per thread, which its gradients overwrite, instead of two.
    assert chunk_loss.SHIFT == staging.BLOCK
    x, w, b = (t.detach() for t in layer((64,), 40_000, 4))
    request = ChunkRequest(needs_grad=EVERY)
    from torchbce.linear import chunks

    operands = LinearOperands(dense=torch.zeros(64, 40_000))
    with threads(4):
        run = chunks._Run(Head(x, w, b), operands, request)
        made = [chunks._Chunks(run) for _ in range(run.threads)]
    assert run.threads == 4
    for each in made:
        assert each._elements.numel() == run.size * 64 + staging.BLOCK <= chunks._LOGITS + 1024
    assert len({each._elements.data_ptr() for each in made}) == 4


@pytest.mark.parametrize("place", ["OMP_NESTED", "more threads than may wait for the interpreter"])
def test_threads_share_products_where_own_chunks_would_not_do(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "OMP_NESTED":
        monkeypatch.setattr(cpu_threads, "has_flat_openmp", lambda: False)
    with threads(2 if place == "OMP_NESTED" else workers.MOST_THREADS + 1):
        assert workers.shares_chunks()
        assert workers.thread_count(50) == 1
    assert same(found(1), found(1))


SCRIPTS = {
    "nested": """
from torchbce.backends.cpu import threads
torch.zeros(10**6).exp()
print(threads.has_flat_openmp())
""",
    # As many threads as where they share each product: none is added by products in the region.
    "threads of the system": """
import os
from torchbce.linear import workers
def system_threads(): return len(os.listdir("/proc/self/task"))
torch.set_num_threads(3)
most, workers.MOST_THREADS = workers.MOST_THREADS, 0
step()
workers.MOST_THREADS = most
before = system_threads()
for _ in range(3): step()
print(system_threads() == before, torch.get_num_threads())
""",
    "fork": """
import os
torch.set_num_threads(2)
expected = step()
child = os.fork()
if not child:
    torch.set_num_threads(1)  # as a DataLoader's worker does
    os._exit(0 if all(map(torch.equal, step(), expected)) else 1)
_, status = os.waitpid(child, 0)
print(status, all(map(torch.equal, step(), expected)))
""",
    "data loader": """
torch.set_num_threads(2)
expected = step()
class Losses(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return [t.detach() for t in step()]
loader = torch.utils.data.DataLoader(Losses(), batch_size=None, num_workers=2)
print(all(all(map(torch.equal, item, expected)) for item in loader))
""",
}
STEP = """
import torch, torchbce
g = torch.Generator().manual_seed(0)
x, w = (torch.randn(s, 50, generator=g).requires_grad_() for s in (64, 4000))
target = torch.arange(64)[:, None] * 7
def step():
    loss = torchbce.linear_binary_cross_entropy(x, w, target, chunk_labels=100)
    return [loss.detach(), *torch.autograd.grad(loss, (x, w))]
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc and fork are Linux's")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nested", "False"),
        ("threads of the system", "True 3"),
        ("fork", "0 True"),
        ("data loader", "True"),
    ],
)
def test_in_processes(name: str, expected: str) -> None:
    environment = {"OMP_NESTED": "true"} if name == "nested" else {}
    ran = subprocess.run(
        [sys.executable, "-c", STEP + SCRIPTS[name]],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == expected


def test_several_threads_of_python_at_once() -> None:
    expected, results = found(1), list[list[Tensor]]()

    def call() -> None:
        leaves = layer(ROWS, LABELS)
        target, _ = target_of("lists", ROWS, LABELS)
        for _ in range(5):
            loss = linear_bce(*leaves[:2], target, leaves[2], chunk_labels=CHUNK)
            results.append([loss.detach(), *torch.autograd.grad(loss.sum(), leaves)])

    with threads(2):
        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(results) == 15
    assert all(same(result, expected) for result in results)


# ------------------------------------------------------------------------------ modes of the caller


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_modes(mode: Callable[[], AbstractContextManager[None]]) -> None:
    x, w, b = (t.detach() for t in layer(ROWS, LABELS, dtype=torch.bfloat16))
    target, _ = target_of("lists", ROWS, LABELS)
    results = []
    for count in (1, 2):
        with threads(count), mode():
            made = x * 1  # an inference tensor, in that mode
            before = state()
            results.append(linear_bce(made, w, target, b, chunk_labels=CHUNK, reduction="none"))
            assert state() == before
    assert same(results[:1], results[1:])


def test_numbers_too_small_are_flushed_in_each_thread_as_in_the_caller() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush them")
    x, w = torch.full((4, 3), 1e-38), torch.full((LABELS, 3), 1e-3)
    head, operands = Head(x, w, None), LinearOperands(dense=torch.full((4, LABELS), 0.25))
    request = ChunkRequest(chunk_labels=3, needs_grad=NeedsGrad(weight=True), scale=1e-2)

    def gradient(count: int, flush: bool) -> Tensor:
        with threads(count), torch.no_grad():
            torch.set_flush_denormal(flush)
            try:
                before = state()
                _, gradients = run_chunks(head, operands, request)
                assert state() == before
            finally:
                torch.set_flush_denormal(False)
        assert gradients.weight is not None
        return gradients.weight

    for _ in range(5):
        assert not gradient(2, True).any()
        assert gradient(2, False).all()  # those of the other threads are as before


# ------------------------------------------------------------------------------------------- errors


def run_with(update: Update, chunks: int = 40) -> None:
    """Run chunks in two threads with this update."""
    x, w = torch.ones(3, 2), torch.ones(chunks, 2)
    request = ChunkRequest(chunk_labels=1, update=update)
    with threads(2), torch.no_grad():
        run_chunks(Head(x, w, None), LinearOperands(dense=torch.zeros(3, chunks)), request)


@pytest.mark.parametrize("by_caller", [True, False])
def test_an_error_of_any_thread_reaches_the_caller(by_caller: bool) -> None:
    caller, failed, done = threading.get_ident(), threading.Event(), list[int]()

    def update(start: int, *_: Any) -> None:
        if (threading.get_ident() == caller) is by_caller:
            failed.set()
            raise OSError("no memory")
        assert failed.wait(20)  # so that the other thread takes a chunk too
        time.sleep(0.01)
        done.append(start)

    before = state()
    for _ in range(3):
        with pytest.raises(OSError, match="no memory"):
            run_with(update)
        assert len(done) < 5  # the other thread stops too
        assert state() == before
        failed.clear()
        done.clear()
    assert same(found(2), found(1))


def test_a_target_out_of_range_in_any_chunk_is_named() -> None:
    leaves = layer(ROWS, LABELS)
    target = target_of("soft", ROWS, LABELS)[1].float()
    target[5, 123] = 3.0
    for backend in ("numba", "reference"):
        raises = pytest.raises(ValueError, match=r"target\[5, 123\] is 3")
        with threads(2), torchbce.backend(backend), raises:
            linear_bce(*leaves[:2], target, leaves[2], chunk_labels=CHUNK)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals")
@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode], ids=["plain", "inference"])
def test_ctrl_c_stops_every_thread(mode: Callable[[], AbstractContextManager[Any]]) -> None:
    caller, interrupted = threading.get_ident(), threading.Event()

    def update(*_: Any) -> None:
        if threading.get_ident() == caller:
            interrupted.set()
            signal.raise_signal(signal.SIGINT)
        assert interrupted.wait(20)
        time.sleep(0.01)

    # A process of pytest-xdist ignores the signal.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with mode():
            before = state()
            with pytest.raises(KeyboardInterrupt):
                run_with(update)
            assert state() == before
    finally:
        signal.signal(signal.SIGINT, usual)
    assert same(found(2), found(1))


def test_ctrl_c_counts_more_than_an_error() -> None:
    caller, raised = threading.get_ident(), threading.Event()
    inside = threading.Event()

    def update(*_: Any) -> None:
        if threading.get_ident() != caller:
            assert inside.wait(20)
            raised.set()
            raise OSError("no memory")
        inside.set()
        assert raised.wait(20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(update)


def test_an_interrupt_that_ctypes_has_swallowed_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def call_elsewhere(function: Callable[[int], None], threads: int) -> None:
        other = threading.Thread(target=function, args=(0,))  # and not in this thread
        other.start()
        other.join()

    monkeypatch.setattr(cpu_threads, "call_in_openmp", call_elsewhere)
    with pytest.raises(KeyboardInterrupt):
        run_with(lambda *_: None)


def test_an_error_keeps_no_memory_alive() -> None:
    import gc
    import weakref

    kept: list[Any] = []

    def update(start: int, stop: int, g: Tensor, x: Tensor) -> None:
        kept.append(weakref.ref(x))
        raise OSError

    gc.disable()
    try:
        with pytest.raises(OSError):  # noqa: PT011
            run_with(update)
        assert all(reference() is None for reference in kept)
    finally:
        gc.enable()
