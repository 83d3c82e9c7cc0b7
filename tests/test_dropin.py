"""The drop-in compared with the functions that it replaces: same contract, better numbers."""

import importlib
import inspect
import io
import math
import threading
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F
from torch.nn.functional import binary_cross_entropy_with_logits as imported_by_name

import truth
from torchbce import dropin

LOGITS, PROBABILITIES = "binary_cross_entropy_with_logits", "binary_cross_entropy"
PYTORCH = {name: getattr(F, name) for name in (LOGITS, PROBABILITIES)}
OURS = {name: getattr(dropin, name) for name in (LOGITS, PROBABILITIES)}
BOTH = pytest.mark.parametrize("name", [LOGITS, PROBABILITIES])

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OTHERS = (torch.int64, torch.uint8, torch.bool, torch.complex64)


def relatively(value):
    """`pytest.approx` without its absolute tolerance, which exceeds the losses in the tails."""
    return pytest.approx(value, rel=1e-6, abs=0)


def current():
    return {name: getattr(F, name) for name in PYTORCH}


@pytest.fixture(autouse=True)
def _leave_pytorch_as_it_was():
    assert current() == PYTORCH
    yield
    left = current()
    dropin.uninstall()
    assert left == PYTORCH


class TestInstalling:
    def test_import_changes_nothing(self):
        importlib.import_module("torchbce.dropin")
        assert {function.__module__ for function in current().values()} == {"torch.nn.functional"}

    def test_install_and_uninstall(self):
        dropin.install()
        assert current() == OURS
        dropin.uninstall()
        assert current() == PYTORCH

    def test_installing_twice_is_installing_once(self):
        dropin.install()
        dropin.install()
        dropin.uninstall()
        assert current() == PYTORCH
        dropin.uninstall()
        assert current() == PYTORCH

    def test_context(self):
        with dropin.installed() as value:
            assert value is None
            assert current() == OURS
        assert current() == PYTORCH

    def test_contexts_nest(self):
        with dropin.installed():
            with dropin.installed():
                pass
            assert current() == OURS
        assert current() == PYTORCH

    def test_context_leaves_an_installed_drop_in(self):
        dropin.install()
        with dropin.installed():
            pass
        assert current() == OURS
        dropin.uninstall()

    def test_install_inside_a_context_outlives_it(self):
        with dropin.installed():
            dropin.install()
        assert current() == OURS
        dropin.uninstall()

    def test_uninstall_inside_a_context_takes_effect_at_once(self):
        with dropin.installed():
            dropin.uninstall()
            assert current() == PYTORCH
        assert current() == PYTORCH
        with dropin.installed():
            assert current() == OURS

    def test_context_ends_with_an_exception(self):
        with pytest.raises(ZeroDivisionError), dropin.installed():
            _ = 1 / 0
        assert current() == PYTORCH

    def test_as_decorator(self):
        assert dropin.installed()(current)() == OURS

    def test_a_patch_by_other_code_is_restored(self, monkeypatch):
        wrapper = lambda *args, **kwargs: None  # noqa: E731
        with monkeypatch.context() as patch:
            patch.setattr(F, LOGITS, wrapper)
            with dropin.installed():
                assert current() == OURS
            assert getattr(F, LOGITS) is wrapper

    def test_contexts_of_two_threads_overlap(self):
        first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))
        seen = []

        def first():
            with dropin.installed():
                first_is_in.set()
                assert second_is_in.wait(10)
            first_is_out.set()

        def second():
            assert first_is_in.wait(10)
            with dropin.installed():
                second_is_in.set()
                assert first_is_out.wait(10)
                seen.append(current())

        threads = [threading.Thread(target=each) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert seen == [OURS]
        assert current() == PYTORCH


class TestReach:
    def test_modules_created_before_installing(self):
        module = nn.BCEWithLogitsLoss()
        z, y = torch.tensor(-40.0), torch.tensor(0.0)
        assert module(z, y) == 0
        with dropin.installed():
            assert module(z, y) == relatively(math.exp(-40))

    def test_probability_module(self):
        criterion = nn.BCELoss(weight=torch.tensor(2.0))
        p, y = torch.tensor([0.5]).requires_grad_(), torch.tensor([1.0])
        with dropin.installed():
            loss = criterion(p, y)
        assert loss.item() == pytest.approx(2 * math.log(2))
        assert "Where" not in type(criterion(p, y).grad_fn).__name__
        assert type(loss.grad_fn).__name__ != "BinaryCrossEntropyBackward0"  # PyTorch's

    def test_a_function_imported_by_name_is_not_replaced(self):
        z, y = torch.tensor(-40.0), torch.tensor(0.0)
        with dropin.installed():
            assert imported_by_name is PYTORCH[LOGITS]
            assert torch.distributions.Bernoulli(logits=z).log_prob(y) == 0

    @BOTH
    def test_signature(self, name):
        assert inspect.signature(OURS[name]) == inspect.signature(PYTORCH[name])
        assert OURS[name].__name__ == name


# ---- the contract ----


def outcome(function, *args, **kwargs):
    """What a caller can observe of a call, except the numbers."""
    leaves = [x.requires_grad_() for x in args if differentiable(x)]
    try:
        loss = function(*args, **kwargs)
        if leaves:
            loss.sum().backward()
    except Exception as error:
        return type(error), str(error)
    return loss.dtype, loss.shape, [(x.grad.dtype, x.grad.shape) for x in leaves]


def differentiable(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def same_outcome(name, make, **options):
    """Assert that both functions have the same outcome, and return it; `make` builds arguments."""
    (args, kwargs), (same_args, same_kwargs) = make(), make()
    expected = outcome(PYTORCH[name], *args, **kwargs, **options)
    got = outcome(OURS[name], *same_args, **same_kwargs, **options)
    assert got == expected
    return expected


@BOTH
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_output_and_gradient_dtypes_of_every_pair_of_dtypes(name, reduction):
    accepted = set()
    for input_dtype, target_dtype in product(FLOATS + OTHERS, repeat=2):
        if name == LOGITS and input_dtype in FLOATS and target_dtype == torch.complex64:
            continue  # passed on to PyTorch, which computes a complex loss

        def make(input_dtype=input_dtype, target_dtype=target_dtype):
            return (torch.ones(2).to(input_dtype), torch.ones(2).to(target_dtype)), {}

        result = same_outcome(name, make, reduction=reduction)
        if isinstance(result[0], torch.dtype):
            assert result[0] == target_dtype
            accepted.add((input_dtype, target_dtype))
    assert accepted == set(
        product(FLOATS, FLOATS) if name == LOGITS else zip(FLOATS, FLOATS, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "which"), [(LOGITS, "weight"), (LOGITS, "pos_weight"), (PROBABILITIES, "weight")]
)
@pytest.mark.parametrize("dtype", FLOATS + OTHERS, ids=str)
def test_weight_dtypes(name, which, dtype):
    for input_dtype, target_dtype in product(FLOATS, FLOATS if name == LOGITS else (None,)):

        def make(input_dtype=input_dtype, target_dtype=target_dtype or input_dtype):
            args = torch.full((2,), 0.5, dtype=input_dtype), torch.ones(2, dtype=target_dtype)
            return args, {which: torch.ones(2).to(dtype)}

        same_outcome(name, make)


SHAPES = [(), (1,), (3,), (2, 1), (1, 1), (2, 3), (2,), (5,), (1, 2, 3), (4, 2, 3), (0,), (3, 3)]


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weight_shapes(name, shape):
    for which in ("weight", "pos_weight") if name == LOGITS else ("weight",):
        for reduction in ("none", "mean"):

            def make(which=which):
                return (torch.full((2, 3), 0.5), torch.rand(2, 3)), {which: torch.rand(shape)}

            result = same_outcome(name, make, reduction=reduction)
            fits = shape in [(), (1,), (3,), (2, 1), (1, 1), (2, 3)]
            assert isinstance(result[0], torch.dtype) == fits


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_target_shapes(name, shape):
    result = same_outcome(name, lambda: ((torch.full((2, 3), 0.5), torch.rand(shape)), {}))
    assert (result[0] is ValueError) == (shape != (2, 3))


@BOTH
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (2, 0, 1), (7, 1, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_input_shapes(name, shape, reduction):
    same_outcome(name, lambda: ((torch.rand(shape), torch.rand(shape)), {}), reduction=reduction)


@BOTH
def test_the_mean_over_no_elements_is_nan_as_in_pytorch(name):
    assert OURS[name](torch.ones(0), torch.ones(0)).isnan()
    assert OURS[name](torch.ones(0), torch.ones(0), reduction="sum") == 0


MISUSES = {
    "reduction": lambda x, y: ((x, y), {"reduction": "average"}),
    "no reduction": lambda x, y: ((x, y), {"reduction": None}),
    "target is None": lambda x, y: ((x, None), {}),
    "input is a number": lambda x, y: ((0.5, y), {}),
    "target is a list": lambda x, y: ((x, [0.0, 1.0]), {}),
    "numpy": lambda x, y: ((x, y.numpy()), {}),
    "weight is a number": lambda x, y: ((x, y, 2.0), {}),
    "weight is a list": lambda x, y: ((x, y, [2.0, 3.0]), {}),
    "weight requires grad": lambda x, y: ((x, y), {"weight": torch.ones(2, requires_grad=True)}),
    "sparse input": lambda x, y: ((x.to_sparse(), y), {}),
    "sparse target": lambda x, y: ((x, y.to_sparse()), {}),
    "sparse weight": lambda x, y: ((x, y, y.to_sparse()), {}),
    "too many": lambda x, y: ((x, y, None, None, None, "mean", None, None), {}),
    "unknown option": lambda x, y: ((x, y), {"label_smoothing": 0.1}),
}


@BOTH
@pytest.mark.parametrize("misuse", MISUSES)
def test_errors(name, misuse):
    result = same_outcome(name, lambda: MISUSES[misuse](torch.rand(2), torch.rand(2)))
    assert issubclass(result[0], Exception)


@pytest.mark.parametrize("value", [2.0, [1.0], torch.ones(2, requires_grad=True)], ids=str)
def test_pos_weight_errors(value):
    result = same_outcome(LOGITS, lambda: ((torch.rand(2), torch.rand(2)), {"pos_weight": value}))
    assert result[0] in (TypeError, RuntimeError)


@BOTH
def test_weights_that_require_grad_are_accepted_under_no_grad(name):
    y, weight = torch.zeros(1), torch.full((1,), 2.0, requires_grad=True)
    x = torch.tensor([-40.0 if name == LOGITS else 0.25])
    with torch.no_grad():
        loss = OURS[name](x, y, weight).item()
    assert loss == relatively(2 * math.exp(-40) if name == LOGITS else -2 * math.log(0.75))


@BOTH
@pytest.mark.parametrize(("size_average", "reduce"), list(product((None, True, False), repeat=2)))
def test_legacy_reduction(name, size_average, reduce):
    x, y = torch.full((2,), 0.5), torch.ones(2)
    results = []
    for function in (PYTORCH[name], OURS[name]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = function(x, y, None, size_average, reduce, "sum")
        results.append((loss.tolist(), [(w.category, str(w.message), w.filename) for w in caught]))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert len(results[0][1]) == (size_average is not None or reduce is not None)


@BOTH
def test_legacy_reduction_warns_once_even_if_the_call_fails(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="size"):
            OURS[name](torch.rand(2), torch.rand(3), size_average=False)
    assert len(caught) == 1


@BOTH
def test_elementwise_mean(name):
    with pytest.warns(UserWarning, match="elementwise_mean"):
        loss = OURS[name](torch.tensor([0.5, 0.5]), torch.ones(2), reduction="elementwise_mean")
    assert loss.shape == ()


@pytest.mark.parametrize("value", [-1e-9, 1.0000001, -math.inf, math.inf, math.nan])
@pytest.mark.parametrize("place", [0, 1], ids=["input", "target"])
def test_probability_loss_rejects_values_outside_the_unit_interval(value, place):
    def make():
        args = [torch.full((3,), 0.5), torch.full((3,), 0.5)]
        args[place][1] = value
        return args, {}

    kind, text = same_outcome(PROBABILITIES, make)
    assert kind is RuntimeError
    assert text == f"all elements of {['input', 'target'][place]} should be between 0 and 1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("inputs", "targets", "named"),
    [
        ([0.5, 1.5, 0.5], [255.0, 0.0, 0.0], "target"),
        ([0.5, 1.5, 0.5], [0.0, 0.0, 255.0], "input"),
        ([0.5, 1.5, 0.5], [0.0, 255.0, 0.0], "input"),
    ],
)
def test_the_first_element_that_is_outside_is_named(inputs, targets, named, dtype):
    args = [torch.tensor(values, dtype=dtype) for values in (inputs, targets)]
    kind, text = same_outcome(PROBABILITIES, lambda: (args, {}))
    assert kind is RuntimeError
    assert text == f"all elements of {named} should be between 0 and 1"


@pytest.mark.parametrize(
    "transform", [torch.vmap, lambda f: torch.func.grad(lambda *a: f(*a).sum())]
)
def test_probability_loss_rejects_such_values_under_a_transform(transform):
    p, y = torch.tensor([0.5, 1.5]), torch.ones(2)
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        transform(OURS[PROBABILITIES])(p, y)


def test_logit_loss_accepts_any_targets():
    z = torch.tensor([1.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    y = torch.tensor([2.0, -1.0, 1.5, math.nan], dtype=torch.float64)
    torch.testing.assert_close(
        OURS[LOGITS](z, y, reduction="none"),
        PYTORCH[LOGITS](z, y, reduction="none"),
        equal_nan=True,
    )


@BOTH
def test_gradients_in_the_target(name):
    x = torch.tensor([0.3, 0.6], dtype=torch.float64)
    grads = []
    for function in (PYTORCH[name], OURS[name]):
        y = torch.tensor([0.2, 0.9], dtype=torch.float64, requires_grad=True)
        grads += torch.autograd.grad(function(x, y), y)
    torch.testing.assert_close(*grads)


@BOTH
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pair", list(product(FLOATS, repeat=2)), ids=str)
def test_cpu_autocast(name, lower, pair):
    def make():
        return [torch.full((2,), 0.5, dtype=dtype) for dtype in pair], {}

    with torch.autocast("cpu", lower):
        same_outcome(name, make)


@BOTH
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gpu_autocast(name, dtype):
    """The autocast rules of a GPU, by fake tensors that are on one."""
    results = []
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode():
            x = torch.ones(2, device="cuda", dtype=dtype)
            for function in (PYTORCH[name], OURS[name]):
                try:
                    results.append(function(x, x).dtype)
                except RuntimeError as error:
                    results.append(str(error))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert results[0] == results[1]
    if name == PROBABILITIES:
        assert "unsafe to autocast" in results[0]
    else:
        assert results[0] == (torch.float64 if dtype == torch.float64 else torch.float32)


@BOTH
def test_meta_tensors(name):
    x = torch.ones(2, 3, device="meta")
    assert OURS[name](x, x, reduction="none").shape == (2, 3)
    assert OURS[name](x, x).device.type == "meta"


class Recording(torch.Tensor):
    """A tensor whose `__torch_function__` records its calls."""

    calls = ()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in PYTORCH:
            cls.calls += ((function, types, len(args), sorted(kwargs or {})),)
        return super().__torch_function__(function, types, args, kwargs)


@BOTH
@pytest.mark.parametrize("place", [0, 1, 2])
def test_torch_function(name, place):
    calls = []
    for function in (PYTORCH[name], OURS[name]):
        args = [torch.tensor([-40.0]).sigmoid(), torch.tensor([0.0]), torch.tensor([1.0])]
        args[place] = args[place].as_subclass(Recording)
        Recording.calls = ()
        loss = function(*args)
        assert isinstance(loss, Recording)
        ((passed, *rest),) = Recording.calls
        assert passed is function
        calls.append(rest)
    assert calls[0] == calls[1]


@BOTH
def test_torch_function_modes(name):
    x = torch.tensor([0.25])
    expected = OURS[name](x, x)
    with torch.device("cpu"):
        assert OURS[name](x, x) == expected


# ---- compilers ----


@BOTH
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compiled(name, reduction):
    def loss(x, y, w):
        return getattr(F, name)(x, y, w, reduction=reduction)

    torch._dynamo.reset()
    x, y, w = torch.tensor([0.25, 1e-30]), torch.tensor([1.0, 0.0]), torch.tensor(2.0)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    with dropin.installed():
        results = []
        for function in (loss, compiled):
            leaf = x.clone().requires_grad_()
            value = function(leaf, y, w)
            value.sum().backward()
            results.append((value.detach(), leaf.grad))
        torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_compiled_code_follows_install_and_uninstall():
    torch._dynamo.reset()
    compiled = torch.compile(nn.BCEWithLogitsLoss(), backend="aot_eager", fullgraph=True)
    z, y = torch.tensor([-40.0]), torch.tensor([0.0])
    assert compiled(z, y) == 0
    with dropin.installed():
        assert compiled(z, y) == relatively(math.exp(-40))
    assert compiled(z, y) == 0


@pytest.mark.parametrize("module", [nn.BCEWithLogitsLoss, nn.BCELoss])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_compiles_pytorchs_function(module):
    x, y = torch.tensor([0.25, 0.5]), torch.tensor([1.0, 0.0])
    with dropin.installed():
        scripted = torch.jit.script(module())
        torch.jit.save(scripted, io.BytesIO())
        torch.testing.assert_close(scripted(x, y), module()(x, y))


def test_probability_loss_can_be_traced():
    p, y = torch.tensor([0.25]), torch.tensor([1.0])
    for mode in ("real", "fake", "symbolic"):
        traced = make_fx(lambda p, y: OURS[PROBABILITIES](p, y), tracing_mode=mode)(p, y)
        assert traced(p, y).item() == pytest.approx(math.log(4))


# ---- the numbers ----


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_tails(dtype, y):
    """Loss and gradient are accurate to rounding where PyTorch returns 0 for one of them."""
    lost = 0
    for size in (4.25, 6.5, 9.0, 15.0, 17.5, 37.0, 60.0):
        z = size if y else -size  # a correct prediction, of increasing confidence
        logit = torch.tensor(z, dtype=dtype, requires_grad=True)
        target = torch.tensor(y, dtype=dtype)
        loss = OURS[LOGITS](logit, target)
        (grad,) = torch.autograd.grad(loss, logit)
        exact = logit.item()
        assert truth.ulp_error(loss.item(), truth.bce_with_logits(exact, y), dtype) <= 2
        assert truth.ulp_error(grad.item(), truth.logit_gradient(exact, y), dtype) <= 3

        native = PYTORCH[LOGITS](logit, target)
        (native_grad,) = torch.autograd.grad(native, logit)
        lost += (native == 0).item() and (loss > 0).item()
        lost += (native_grad == 0).item() and (grad != 0).item()
    assert lost >= (1 if dtype == torch.float64 else 2)


@pytest.mark.parametrize(
    ("z", "y", "loss"),
    [
        (math.inf, 1.0, 0.0),
        (-math.inf, 0.0, 0.0),
        (-math.inf, 1.0, math.inf),
        (math.inf, 0.0, math.inf),
        (-math.inf, 0.5, math.inf),
        (math.inf, 2.0, -math.inf),
        (-math.inf, 2.0, math.inf),
    ],
)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_infinite_logits_give_the_limit(z, y, loss, dtype):
    got = OURS[LOGITS](torch.tensor(z, dtype=dtype), torch.tensor(y, dtype=dtype))
    assert got.item() == loss


@pytest.mark.parametrize("y", [-3.0, -0.25, 1.5, 2.0, 255.0])
@pytest.mark.parametrize("z", [-50.0, -3.0, -1e-3, 0.0, 2.0, 40.0])
def test_targets_outside_the_unit_interval(z, y):
    logit = torch.tensor(z, dtype=torch.float64)
    got = OURS[LOGITS](logit, torch.tensor(y, dtype=torch.float64), pos_weight=torch.tensor(3.0))
    expected = float(truth.bce_with_logits(z, y, pos_weight=3.0))
    # The terms have different signs: the error is relative to the largest term.
    assert got.item() == pytest.approx(expected, abs=1e-15 * (1 + 3 * abs(y)) * (1 + abs(z)))


def test_second_derivative_in_the_tail():
    z = torch.tensor(20.0, requires_grad=True)
    (grad,) = torch.autograd.grad(OURS[LOGITS](z, torch.tensor(1.0)), z, create_graph=True)
    (curvature,) = torch.autograd.grad(grad, z)
    assert truth.ulp_error(curvature.item(), truth.logit_curvature(20.0, 1.0), torch.float32) <= 4


def test_half_precision_is_rounded_once():
    """The sum of 2^18 easy negatives in bfloat16, of which PyTorch loses more than half."""
    z = torch.full((2**18,), -6.0, dtype=torch.bfloat16)
    y = torch.zeros_like(z)
    true = 2**18 * float(truth.bce_with_logits(-6.0, 0.0))
    assert OURS[LOGITS](z, y, reduction="sum").item() == pytest.approx(true, rel=2**-8)
    assert PYTORCH[LOGITS](z, y, reduction="sum").item() != pytest.approx(true, rel=0.5)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_sums_are_rounded_once(name, dtype):
    exact = truth.bce_with_logits if name == LOGITS else truth.bce
    for k in range(1, 60):
        x = torch.tensor([0.013 * k, 0.0071 * k, 0.016 * k], dtype=dtype)
        total = OURS[name](x, torch.zeros_like(x), reduction="sum")
        assert truth.ulp_error(total.item(), sum(exact(z, 0.0) for z in x.tolist()), dtype) <= 0.51


def test_mixed_dtypes_are_computed_in_the_wider_one():
    z = torch.tensor([-40.0], dtype=torch.float32)
    y = torch.tensor([1e-20], dtype=torch.float64)
    got = OURS[LOGITS](z, y)
    assert got.dtype == torch.float64
    assert truth.ulp_error(got.item(), truth.bce_with_logits(-40.0, 1e-20), torch.float64) <= 4
    back = OURS[LOGITS](y, z.new_zeros(1))  # float64 logits, float32 target
    assert back.dtype == torch.float32


def test_a_pos_weight_of_zero_in_uint8():
    """PyTorch subtracts 1 from the weight, which in uint8 turns 0 into 255."""
    z, y = torch.tensor([0.0]), torch.tensor([1.0])
    zero = torch.zeros(1, dtype=torch.uint8)
    assert OURS[LOGITS](z, y, pos_weight=zero) == 0
    assert PYTORCH[LOGITS](z, y, pos_weight=zero) > 100


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_probabilities_near_the_ends(dtype):
    for p, y in product([0.0, 2.0**-20, 1e-3, 0.5, 1 - 2.0**-7, 1.0], [0.0, 0.25, 1.0]):
        probability = torch.tensor(p, dtype=dtype)
        loss = OURS[PROBABILITIES](probability, torch.tensor(y, dtype=dtype))
        assert truth.ulp_error(loss.item(), truth.bce(probability.item(), y), dtype) <= 2


def test_small_probabilities_of_a_negative():
    """log(1 - p) for p below half an ulp of 1. PyTorch uses log1p too."""
    p = torch.tensor(1e-20)
    assert OURS[PROBABILITIES](p, torch.tensor(0.0)).item() == relatively(1e-20)


@pytest.mark.parametrize(("p", "y"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_gradient_is_zero_where_the_logarithm_is_floored(p, y):
    """The only derivative that differs: PyTorch divides by 1e-12 instead of 0 there."""
    grads = []
    for function in (PYTORCH[PROBABILITIES], OURS[PROBABILITIES]):
        leaf = torch.tensor(p, requires_grad=True)
        grads += torch.autograd.grad(function(leaf, torch.tensor(y)), leaf)
    assert abs(grads[0].item()) == pytest.approx(1e12)
    assert grads[1] == 0


@pytest.mark.parametrize("far", [80.0, 87.5, 89.0, 95.0, 102.0, 110.0])
def test_gradients_of_subnormal_probabilities_do_not_overflow(far):
    logits = torch.tensor([-far, 0.0], requires_grad=True)
    p = logits.softmax(0)
    loss = OURS[PROBABILITIES](p, torch.tensor([1.0, 0.0]), reduction="none")
    assert truth.ulp_error(loss[0].item(), truth.bce(p[0].item(), 1.0), torch.float32) <= 2
    (grad,) = torch.autograd.grad(loss[0], logits)
    true = torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(grad, true if far < 88 else torch.zeros(2))


def test_gradient_at_probability_zero_of_a_negative():
    p = torch.tensor([0.0, 1e-40, 1e-20], requires_grad=True)
    (grad,) = torch.autograd.grad(OURS[PROBABILITIES](p, torch.zeros(3), reduction="sum"), p)
    assert grad.tolist() == [1.0, 1.0, 1.0]
