"""The structure of the package, as CONTRIBUTING describes it: who may import whom."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchbce

ROOT = Path(torchbce.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: From the top to the bottom; a file imports from its own line and from those below it.
LEVELS = [
    ["__main__"],
    ["cli"],
    ["classifier"],
    ["__init__"],
    ["diagnosis"],
    ["modules", "calibration"],
    ["functional"],
    ["ranking"],
    ["linear", "dropin"],
    ["_contract", "imbalance"],
    ["backends"],
    ["definition"],
    ["_pytorch", "_docs"],
]
#: `functional` offers the functions of `linear`, `backends` has lazy imports of its own.
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def _part(module: str) -> str:
    """The part of the package that a module belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "torchbce":
            for alias in node.names:
                name = f"torchbce.{alias.name}"
                yield name if alias.name in LEVEL else "torchbce", node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file: Path) -> None:
    own = file.relative_to(ROOT).with_suffix("").parts[0]
    for module, line in _imports(file):
        if not re.match(r"torchbce(\.|$)", module):
            continue
        part = _part(module)
        # `torchbce/__init__.py` names what is imported with its first use, see `__getattr__`.
        if own == "__init__" or part == own:
            continue
        assert LEVEL[own] <= LEVEL[part], f"{file.name}:{line} imports {module}"


def test_every_part_has_a_level() -> None:
    parts = {file.relative_to(ROOT).with_suffix("").parts[0] for file in FILES}
    assert parts == set(LEVEL)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_devices_do_not_import_each_other(device: str) -> None:
    other = {"cpu": "gpu", "gpu": "cpu"}[device]
    for file in (ROOT / "backends" / device).glob("*.py"):
        assert not any(f"backends.{other}" in module for module, _ in _imports(file))


PRIVATE = re.compile(
    r"\btorch\._(?!_)\w|\b_C\.|_reduction as|forward_ad\._|\._is_zerotensor|_dynamo_marked"
)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_private_names_of_pytorch_are_in_one_file(file: Path) -> None:
    if file.name != "_pytorch.py":
        assert PRIVATE.findall(file.read_text()) == []
