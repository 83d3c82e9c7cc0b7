"""What is published: the same version everywhere, archives with all that their tests need."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import torchbce

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Of the repository alone: what the forge and the tests of a submission read.
NOT_PUBLISHED = {".ci", ".github", ".gitignore", "pyproject.toml"}


def test_every_file_names_the_same_version() -> None:
    version = PROJECT["project"]["version"]
    assert torchbce.__version__ == version
    named = {
        "CITATION.cff": rf"^version: {re.escape(version)}$",
        "recipe/recipe.yaml": rf'^  version: "{re.escape(version)}"$',
        "CHANGELOG.md": rf"^## \[{re.escape(version)}\]",
    }
    for file, pattern in named.items():
        assert re.search(pattern, (ROOT / file).read_text(), re.MULTILINE), file


def test_the_changelog_is_in_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[[\d.]+\] - \d{4}-\d\d-\d\d", section) for section in sections[1:])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.MULTILINE)) <= kinds
    for section in sections:
        name = section.split(" ")[0]
        assert re.search(rf"^{re.escape(name)}: https://", text, re.MULTILINE), name


def test_the_source_distribution_has_every_file_of_the_repository() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git repository: this is an unpacked source distribution")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    tracked = {Path(path).parts[0] for path in listed} - NOT_PUBLISHED
    assert {path.removeprefix("/") for path in included} == tracked


def test_the_conda_recipe_has_the_same_requirements() -> None:
    recipe = (ROOT / "recipe" / "recipe.yaml").read_text()
    run = recipe.split("  run:\n")[1].split("tests:")[0]
    found = set(re.findall(r"- ([\w-]+) >=([\d.]+)", run))
    project = PROJECT["project"]
    expected = {
        (name.replace("torch", "pytorch"), oldest)
        for requirement in [
            "python" + project["requires-python"],
            *project["dependencies"],
            *project["optional-dependencies"]["cli"],
        ]
        for name, oldest in [requirement.split(">=")]
    }
    assert found == expected


def test_the_workflow_tests_every_python_of_the_classifiers() -> None:
    workflow = ROOT / ".github" / "workflows" / "tests.yml"
    if not workflow.exists():
        pytest.skip("no workflows: this is an unpacked source distribution")
    tested = re.search(r"python: \[(.*)\]", workflow.read_text())
    assert tested is not None
    classifiers = " ".join(PROJECT["project"]["classifiers"])
    assert re.findall(r"3\.\d+", tested[1]) == re.findall(r":: (3\.\d+)", classifiers)
