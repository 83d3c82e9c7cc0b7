"""PyTorch's own tests of its two losses, run with `dropin_plugin` loaded.

PyTorch's wheel contains the samples and the code that checks them, but not the few lines that
connect the two: these follow `test/test_ops.py`, `test_modules.py` and `test_nn.py` of PyTorch.
"""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.testing._internal.common_device_type import (
    OpDTypes,
    instantiate_device_type_tests,
    ops,
)
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db, modules
from torch.testing._internal.common_nn import (
    CriterionTest,
    NewModuleTest,
    criterion_tests,
    get_new_module_tests,
)
from torch.testing._internal.common_utils import (
    TestCase,
    TestGradients,
    freeze_rng_state,
    gradcheck,
    gradgradcheck,
)
from torch.utils._pytree import tree_leaves

from torchbce import dropin

LOSSES = (dropin.binary_cross_entropy_with_logits, dropin.binary_cross_entropy)
NAMES = ("nn.functional.binary_cross_entropy_with_logits", "nn.functional.binary_cross_entropy")


def _entry(name, loss, **changes):
    (found,) = (entry for entry in op_db if entry.name == name)
    entry = deepcopy(found)
    vars(entry).update(op=loss, **changes)
    return entry


OPS = [_entry(name, loss) for name, loss in zip(NAMES, LOSSES, strict=True)]
#: To save time, all gradients are checked along random directions; PyTorch checks some elementwise.
OPS_IN_FAST_MODE = [
    _entry(name, loss, gradcheck_fast_mode=True) for name, loss in zip(NAMES, LOSSES, strict=True)
]
MODULES = [info for info in module_db if info.module_cls in (nn.BCELoss, nn.BCEWithLogitsLoss)]

#: At most two roundings: of the loss, and of the mean or sum of float32 losses.
ROUNDINGS = 2


def _within_rounding(dtype):
    eps = torch.finfo(dtype).eps
    return {"rtol": ROUNDINGS * eps, "atol": ROUNDINGS * eps}


def _in_float64(sample):
    return sample.transform(lambda x: x.double() if isinstance(x, torch.Tensor) else x)


def _pytorch(entry):
    return {
        NAMES[0]: dropin._pytorch_binary_cross_entropy_with_logits,
        NAMES[1]: dropin._pytorch_binary_cross_entropy,
    }[entry.name]


class Installed(TestCase):
    def test_the_drop_in_is_installed(self):
        assert F.binary_cross_entropy_with_logits is LOSSES[0]
        assert F.binary_cross_entropy is LOSSES[1]
        assert len(MODULES) == 2


class Samples(TestCase):
    @ops(OPS, dtypes=OpDTypes.supported)
    def test_values(self, device, dtype, op):
        """Against PyTorch in float64, not in `dtype`: its own half precision misses that by up to
        39%. The samples stay in [-9, 9], where its float64 is good to twelve digits."""
        for sample in op.sample_inputs(device, dtype):
            got = op(sample.input, *sample.args, **sample.kwargs)
            same = _pytorch(op)(sample.input, *sample.args, **sample.kwargs)
            exact = _in_float64(sample)
            want = _pytorch(op)(exact.input, *exact.args, **exact.kwargs)
            assert (got.dtype, got.shape) == (same.dtype, same.shape)
            tolerance = _within_rounding(dtype) if dtype != torch.float64 else {}
            if dtype == torch.float32:  # a sum of up to 125 terms
                tolerance = {key: 8 * value for key, value in tolerance.items()}
            assert_close(got.double(), want, **tolerance)

    @ops(OPS, dtypes=OpDTypes.unsupported)
    def test_other_dtypes_are_rejected(self, device, dtype, op):
        for sample in op.sample_inputs(device, torch.float32):
            wrong = sample.transform(lambda x: x.to(dtype) if isinstance(x, torch.Tensor) else x)
            with pytest.raises((RuntimeError, NotImplementedError)):
                op(wrong.input, *wrong.args, **wrong.kwargs)

    @ops(OPS, allowed_dtypes=(torch.float32, torch.float64))
    def test_noncontiguous(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            strided = sample.noncontiguous()
            results = []
            for each in (sample, strided):
                loss = op(each.input, *each.args, **each.kwargs)
                grads = torch.autograd.grad(loss.sum(), (each.input, each.args[0]))
                results.append((loss, *grads))
            assert_close(*results)

    @ops(OPS, allowed_dtypes=(torch.float32,))
    def test_inputs_are_not_modified(self, device, dtype, op):
        for sample in op.sample_inputs(device, dtype):
            leaves = tree_leaves((sample.input, sample.args, sample.kwargs))
            tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
            before = deepcopy(tensors)
            op(sample.input, *sample.args, **sample.kwargs)
            assert len(tensors) >= 2
            assert_close(tensors, before, rtol=0, atol=0)


class Gradients(TestGradients):
    @ops(OPS, allowed_dtypes=(torch.float64,))
    def test_backward_and_forward_mode(self, device, dtype, op):
        self._grad_test_helper(
            device,
            dtype,
            op,
            op.get_op(),
            check_forward_ad=True,
            check_batched_forward_grad=op.check_batched_forward_grad,
        )

    @ops(OPS_IN_FAST_MODE, allowed_dtypes=(torch.float64,))
    def test_reverse_over_reverse(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "bwgrad_bwgrad")

    @ops(OPS_IN_FAST_MODE, allowed_dtypes=(torch.float64,))
    def test_forward_over_reverse(self, device, dtype, op):
        self._check_helper(device, dtype, op, op.get_op(), "fwgrad_bwgrad")


class Modules(TestCase):
    def _cases(self, info, device, dtype, training, requires_grad=False):
        cases = info.module_inputs_func(
            info, device=device, dtype=dtype, requires_grad=requires_grad, training=training
        )
        assert len(cases) >= 5
        for case in cases:
            made = case.constructor_input
            module = info.module_cls(*made.args, **made.kwargs).to(device=device, dtype=dtype)
            yield module.train(training), case

    @modules(MODULES)
    def test_against_its_reference(self, device, dtype, module_info, training):
        for module, case in self._cases(module_info, device, dtype, training):
            args, kwargs = case.forward_input.args, case.forward_input.kwargs
            with freeze_rng_state():
                got = module(*args, **kwargs)
            want = case.reference_fn(module, *args, **kwargs)  # copies its arguments
            assert_close(got, want)

    @modules(MODULES, allowed_dtypes=(torch.float64,))
    def test_gradients(self, device, dtype, module_info, training):
        for module, case in self._cases(module_info, device, dtype, training, requires_grad=True):
            args = case.forward_input.args
            assert gradcheck(module, args, check_forward_ad=True)
            assert gradgradcheck(module, args, check_fwd_over_rev=True)

    @modules(MODULES)
    def test_state_dict_and_repr(self, device, dtype, module_info, training):
        for module, _ in self._cases(module_info, device, dtype, training):
            other = deepcopy(module)
            other.load_state_dict(module.state_dict(), strict=True)
            assert repr(other) == f"{module_info.module_cls.__name__}()"


class Criteria(TestCase):
    """`criterion_tests` and the tests of both losses as functions, each under its PyTorch name."""

    def _forward(self, module, input):
        with freeze_rng_state():
            return module(*input) if isinstance(input, tuple) else module(input)

    def _backward(self, module, input, output, grad_output, create_graph=False):
        output.backward(grad_output, retain_graph=True, create_graph=create_graph)
        return input.grad

    def _forward_criterion(self, criterion, input, target, extra_args=None):
        return criterion(input, target, *(extra_args or ()))

    def _get_parameters(self, module):
        parameters = list(module.parameters())
        return parameters, [parameter.grad for parameter in parameters]

    def _zero_grad_parameters(self, module):
        module.zero_grad()

    def _zero_grad_input(self, input):
        input.grad = None


def _as_test(described_test):
    return lambda test_case: described_test(test_case)


for kind, table in ((CriterionTest, criterion_tests), (NewModuleTest, get_new_module_tests())):
    for described in table:
        if "BCE" in described.get("fullname", described.get("module_name", "")):
            built = kind(**described)
            setattr(Criteria, built.get_name(), _as_test(built))

instantiate_device_type_tests(Samples, globals(), only_for=("cpu",))
instantiate_device_type_tests(Gradients, globals(), only_for=("cpu",))
instantiate_device_type_tests(Modules, globals(), only_for=("cpu",))
