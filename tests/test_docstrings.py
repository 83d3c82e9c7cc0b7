"""Docstrings are written out in the source; what several of them share is the same in each."""

import inspect
import textwrap

import pytest

import torchbce
from torchbce import functional
from torchbce._docs import OPTIONS
from torchbce.definition.family import FAMILY

DOCUMENTED = [getattr(functional, record.name) for record in FAMILY.values()] + [
    getattr(torchbce, record.module) for record in FAMILY.values()
]
SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "References:")
every_loss = pytest.mark.parametrize("public", DOCUMENTED, ids=lambda public: public.__name__)


def _section(text: str, name: str) -> str:
    """The body of a section of a docstring, without its indentation."""
    after = text.split(f"\n{name}\n", 1)[1]
    body = after
    for other in SECTIONS:
        body = body.split(f"\n{other}\n", 1)[0]
    return textwrap.dedent(body)


@every_loss
def test_shared_options_are_described_alike(public: object) -> None:
    text = inspect.getdoc(public) or ""
    arguments = _section(text, "Args:")
    taken = inspect.signature(public).parameters  # type: ignore[arg-type]
    for name in set(OPTIONS) & set(taken):
        assert OPTIONS[name] in arguments, name
    assert OPTIONS["raises"] in _section(text, "Raises:")
    if inspect.isfunction(public):
        assert OPTIONS["returns"] in _section(text, "Returns:")


@every_loss
def test_every_argument_is_described_in_the_order_of_the_sections(public: object) -> None:
    text = inspect.getdoc(public) or ""
    found = [text.index(f"\n{section}\n") for section in SECTIONS]
    assert found == sorted(found)
    arguments = _section(text, "Args:")
    for name in inspect.signature(public).parameters:  # type: ignore[arg-type]
        assert f"\n{name}: " in f"\n{arguments}", name
    assert "<" not in arguments


def test_the_source_has_the_text_that_help_shows() -> None:
    """Editors read the source: nothing is put into a docstring when it is imported."""
    source = inspect.getsource(functional)
    assert (
        "\n        label_smoothing: s in [0, 1]: the target becomes y (1 - s) + s / 2.\n" in source
    )
