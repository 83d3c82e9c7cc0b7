r"""Calibration of logits: maps that make probabilities right, fitted to rows held out.

    from torchbce.calibration import choose

    calibrator = choose(logits, targets)       # logits of rows that the model was not fitted to
    probabilities = torch.sigmoid(calibrator(new_logits))

Each map is a module that takes logits and returns logits, of one label or of many, with parameters
for each label. `maps.py` has the formulas, `modules.py` the modules, `solver.py` fits them, and
`choosing.py` chooses one by cross-validation.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchbce.calibration.choosing import choose
    from torchbce.calibration.modules import (
        Beta,
        Calibrator,
        Identity,
        Platt,
        Quadratic,
        Temperature,
        from_dict,
    )

__all__ = [
    "Beta",
    "Calibrator",
    "Identity",
    "Platt",
    "Quadratic",
    "Temperature",
    "choose",
    "from_dict",
]


def __getattr__(name: str) -> Any:
    # A classifier applies the formulas of `maps.py` without PyTorch, whose import takes 2 s.
    if name not in __all__:
        raise AttributeError(f"module 'torchbce.calibration' has no attribute {name!r}")
    module = "choosing" if name == "choose" else "modules"
    value = getattr(importlib.import_module(f"torchbce.calibration.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
