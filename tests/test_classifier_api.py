"""The public names of the classifier, their docstrings, and the page about them."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from torchbce import classifier
from torchbce.classifier.columns.target import KNOWN_PAIRS
from torchbce.classifier.columns.values import MISSING
from torchbce.classifier.quality.metrics import Confusion, Metrics
from torchbce.cli.terminal import METRIC_NAMES

PAGE = (Path(__file__).parent.parent / "docs" / "classifier.md").read_text(encoding="utf-8")

#: In this order, where they are there.
SECTIONS = ["Args", "Attributes", "Returns", "Raises", "Example", "References"]


def public() -> dict[str, Any]:
    """The public functions and classes, and the methods of the classes."""
    found: dict[str, Any] = {}
    for name in classifier.__all__:
        value = getattr(classifier, name)
        found[name] = value
        if inspect.isclass(value):
            for method in value.__dict__.values():
                if inspect.isfunction(method) and not method.__name__.startswith("_"):
                    found[f"{name}.{method.__name__}"] = method
    return found


PUBLIC = public()


def sections_of(value: Any) -> dict[str, str]:
    """The sections of a docstring, by their titles; the text before them under ""."""
    parts = re.split(r"^(\w+):\n", inspect.getdoc(value) or "", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def fields_of(value: Any) -> list[str]:
    """What a docstring has to describe: the parameters, or the fields of a record."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if inspect.isclass(value) and issubclass(value, msgspec.Struct):
        return list(value.__struct_fields__)
    signature = inspect.signature(value)
    return [name for name in signature.parameters if name != "self"]


def test_the_names() -> None:
    assert {"fit", "load", "read", "save", "Classifier.predict", "Overrides.kinds"} <= set(PUBLIC)
    assert "fit" in dir(classifier)
    assert callable(classifier.fit)


@pytest.mark.parametrize("name", PUBLIC)
def test_docstrings_are_complete_and_in_order(name: str) -> None:
    value = PUBLIC[name]
    sections = sections_of(value)
    first = sections[""].splitlines()[0]
    assert first.endswith("."), first
    titles = [title for title in sections if title]
    assert titles == sorted(titles, key=SECTIONS.index)
    if "Example" in sections:
        assert ">>>" in sections["Example"]
    described = sections.get("Args", "") + sections.get("Attributes", "")
    for field in fields_of(value):
        assert re.search(rf"^ +{field}: ", described, re.MULTILINE), field
    if inspect.isfunction(value):
        assert "Raises" in sections or name in ("InputError.message", "LabelsCard.fault")
        returns = inspect.signature(value).return_annotation
        assert ("Returns" in sections) == (returns is not None)
    if "." not in name:
        assert "Example" in sections


def test_the_page_has_every_metric_and_missing_value_and_pair() -> None:
    for name in [*Metrics.__struct_fields__]:
        assert f"`{name}`" in PAGE, name
    assert {*METRIC_NAMES, "confusion"} == set(Metrics.__struct_fields__)
    assert Confusion.__struct_fields__ == ("tn", "fp", "fn", "tp")
    listed = re.sub(r"\s+", " ", PAGE)
    for word in filter(None, MISSING):
        assert f"`{word}`" in listed, word
    for negative, positive in KNOWN_PAIRS:
        assert f"{negative} and {positive}" in listed
