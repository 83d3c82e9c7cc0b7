"""The documentation: its code runs, its commands exist, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest

import torchbce
from pages import DOCS, PAGES, REPOSITORY, ROOT, SITE, blocks, run, target

CODE = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"), 1)
]
COMMANDS = sorted(
    {
        line.strip().removeprefix("$ ")
        for page in PAGES
        for language in ("sh", "text")
        for block in blocks(page, language)
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"^ *(\$ )?torchbce ", line)
    }
)


# PyTorch says once that its own CSR tensors are in beta, and its exporter uses what is deprecated.
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("code", CODE)
def test_code_runs_when_it_is_pasted(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for printed, shown in run(code):
        assert printed == shown


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options_that_are_shown(line: str) -> None:
    from torchbce.cli.app import app

    typer = pytest.importorskip("typer")
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-"):
        return
    assert words[0] in command.commands, line
    known = {
        option
        for parameter in command.commands[words[0]].params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "-h"}
    for word in words[1:]:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in known, line


def test_every_command_has_examples_that_have_its_options() -> None:
    app = pytest.importorskip("torchbce.cli.app")
    assert {command.callback for command in app.app.registered_commands} == app.EXAMPLES.keys()
    for command, examples in app.EXAMPLES.items():
        assert examples
        for line in examples:
            assert line.startswith(f"torchbce {command.__name__}")
            test_commands_have_the_options_that_are_shown(line)


def test_every_page_is_in_the_navigation_and_says_what_to_do_next() -> None:
    navigation = re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text())
    written = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    generated = {"reference/command-line.md", "reference/changelog.md"}
    assert set(navigation) == written | generated
    assert len(navigation) == len(set(navigation))
    for name in written:
        text = (DOCS / name).read_text()
        assert re.search(r"^## (What next|Next)$", text, re.MULTILINE), (
            f"{name} ends without 'Next'"
        )
        last = text[text.rindex("\n## ") :]
        assert last.startswith(("\n## Next", "\n## What next")), name
        assert re.search(r"\]\([^)]+\)", last), name


def test_absolute_links_lead_to_files_of_the_repository() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((https?://[^)]+)\)", page.read_text()):
            file = target(link)
            assert file is None or file.exists(), f"{page.name}: {link}"
            assert file is not None or not link.startswith((SITE, REPOSITORY)), link


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
    shown = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    for name in torchbce.__all__:
        value = getattr(torchbce, name)
        if type(value).__name__ == "module":
            assert any(entry.startswith(f"torchbce.{name}.") for entry in shown), name
        else:
            home = {f"torchbce.{name}", f"torchbce.functional.{name}", f"{value.__module__}.{name}"}
            assert home & shown, f"{name} is in no page of docs/api"


def test_every_name_of_the_classifier_is_in_the_reference() -> None:
    pytest.importorskip("typer")
    from torchbce import classifier

    text = (DOCS / "api" / "classifier.md").read_text()
    shown = {name.split(".")[-1] for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)}
    assert set(classifier.__all__) <= shown
