"""The process of the command line: what it imports, its signals, closed and full streams.

Each test runs real processes, in which the faults lie.
"""

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from making import csv_of, done, names_in, numbers, reviews, torchbce
from torchbce.classifier.storage import CARD

PROCESS = [sys.executable, "-m", "torchbce"]
TABLE = reviews(24)
NUMBERS = TABLE.select("place", "stars", "kind")
#: Where any model will do.
FAST = ("--model", "linear", "--effort", "low")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of numbers and categories, and a linear model of it."""
    folder = tmp_path_factory.mktemp("place")
    csv_of(NUMBERS, folder / "t.csv")
    done("fit", folder / "t.csv", "--target", "kind", "-o", folder / "m", *FAST)
    return folder


def run(*arguments: object, shell: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
    """A command, with redirections that a shell applies to it."""
    words = [*PROCESS, *map(str, arguments)]
    if shell:
        words = ["bash", "-c", f'"$@" {shell}', "bash", *words]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **options)


def one_sentence(ended: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Exit status 2, and one sentence on standard error."""
    assert ended.returncode == 2, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("torchbce: ")
    for word in words:
        assert word in line


# ----------------------------------------------------------------------------------------- imports


IMPORTED = """
import sys
from torchbce.cli import main
sys.argv[0] = "torchbce"
try:
    main()
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""


def imported(*arguments: object) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["fit", "-h"], ["predict", "--help"]]
)
def test_help_and_version_import_no_library_of_numbers(arguments: list[str]) -> None:
    modules = imported(*arguments)
    assert modules & {"torch", "numpy", "polars", "rich.console", "scipy", "sklearn"} == set()


def test_predict_imports_nothing_of_the_training(place: Path) -> None:
    """Each of them takes 0.7 to 2 s: Lightning, the compiler, scikit-learn, SciPy's statistics."""
    modules = imported("predict", place / "m", place / "t.csv")
    heavy = {"lightning_fabric", "torch._dynamo", "sklearn", "scipy.stats", "numba", "rich.console"}
    assert modules & heavy == set()


# -------------------------------------------------------------------------------------- invocation


def test_ways_to_call_it() -> None:
    for words in (["torchbce"], ["torchbce.cli"]):
        for option in ("-h", "--help"):
            ended = subprocess.run(
                [sys.executable, "-m", *words, option], capture_output=True, text=True, timeout=60
            )
            assert (ended.returncode, ended.stderr) == (0, "")
            assert ended.stdout.startswith("Usage: torchbce [OPTIONS] COMMAND")
    assert "-o, --output DIR" in run("fit", "-h").stdout
    assert re.fullmatch(r"torchbce \d+\.\d+\.\d+\n", run("--version").stdout)


def test_completion() -> None:
    environment = {
        **os.environ,
        "_TORCHBCE_COMPLETE": "complete_bash",
        "COMP_WORDS": "torchbce ev",
        "COMP_CWORD": "1",
    }
    assert run(env=environment).stdout.split() == ["evaluate"]
    assert (
        "_TORCHBCE_COMPLETE"
        in run("--show-completion", "bash").stdout
        + run(env={**os.environ, "_TORCHBCE_COMPLETE": "source_bash"}).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit"], ["missing argument 'TABLE...'", "See torchbce fit --help"]),
        (["fit", "t.csv", "--modle", "x"], ["no such option: --modle"]),
        (["fot"], ["no such command 'fot'", "See torchbce --help"]),
        (["fit", "t.csv", "--target", "y", "-o", "m", "--epochs", "x"], ["--epochs"]),
    ],
)
def test_wrong_arguments(arguments: list[str], words: list[str]) -> None:
    ended = run(*arguments)
    one_sentence(ended, *words)
    assert ended.stdout == ""


def test_quiet(tmp_path: Path) -> None:
    table = csv_of(numbers(60), tmp_path / "t.csv")
    fit = ["fit", table, "--target", "y", *FAST, "-q"]
    silent = done(*fit, "-o", tmp_path / "m")
    assert (silent.stdout, silent.stderr) == ("", "")
    spoken = done(*fit, "-o", tmp_path / "n", "--json")
    assert json.loads(spoken.stdout)["rows"] == 60
    assert spoken.stderr == ""
    predict = ["predict", tmp_path / "m", table, "-q", "-o", tmp_path / "o.csv"]
    silent = done(*predict)
    assert (silent.stdout, silent.stderr) == ("", "")
    assert "exists" in torchbce(*predict).stderr


# ----------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["evaluate", "m", "t.csv"]])
def test_standard_output_that_is_closed_or_full(
    place: Path, arguments: list[str], unbuffered: str
) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    closed = run(*arguments, shell=">&-", cwd=place, env=environment)
    one_sentence(closed, "standard output is closed")
    full = run(*arguments, shell=">/dev/full", cwd=place, env=environment)
    one_sentence(full, "cannot write to standard output: No space left on device")


def test_a_full_standard_output_for_rows(place: Path) -> None:
    for json_ in ([], ["--json"]):
        full = run("predict", place / "m", place / "t.csv", *json_, shell=">/dev/full")
        one_sentence(full, "cannot write to standard output: No space left on device")


def test_a_closed_standard_output_is_found_before_training(place: Path, tmp_path: Path) -> None:
    ended = run("fit", place / "t.csv", "--target", "kind", "-o", tmp_path / "m", shell=">&-")
    one_sentence(ended, "standard output is closed")
    assert names_in(tmp_path) == set()


def test_a_reader_that_is_gone(place: Path) -> None:
    for arguments in (["--help"], ["evaluate", place / "m", place / "t.csv"]):
        ended = run(
            *arguments, shell="| (sleep 0; exec 0<&-; cat /dev/null); exit ${PIPESTATUS[0]}"
        )
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    "where",
    [
        "2>/dev/full",
        pytest.param("2>&-", marks=pytest.mark.slow),
        pytest.param("2> >(exit)", marks=pytest.mark.slow),
        pytest.param("<&-", marks=pytest.mark.slow),
    ],
)
def test_standard_error_and_input_that_are_closed_or_full(
    place: Path, tmp_path: Path, where: str
) -> None:
    """A command does what it would do, and writes no file in the place of a closed stream."""
    table = csv_of(NUMBERS.with_columns(probability=1), tmp_path / "t.csv")  # of which it speaks
    ended = run("predict", place / "m", table, "-o", tmp_path / "o.csv", shell=where)
    assert ended.returncode == 0
    assert "24 rows written" in ended.stdout
    assert (tmp_path / "o.csv").read_text().startswith("place,stars,kind,probability,")


def test_arguments_that_are_not_utf8(place: Path) -> None:
    for arguments in (
        [b"predict", os.fsencode(place / "m"), b"--text", b"caf\xe9"],
        [b"predict", os.fsencode(place / "m"), b"caf\xe9.csv"],
        [b"fit", b"t.csv", b"--target", b"caf\xe9", b"-o", b"m"],
    ):
        words = [os.fsencode(word) for word in PROCESS] + arguments
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
        one_sentence(ended, r"the argument 'caf\xe9", "is not UTF-8")
    environment = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    ended = run("predict", "m", "é.csv", env={**os.environ, **environment})
    one_sentence(ended, "set LC_ALL=C.UTF-8")


@pytest.mark.slow
def test_a_folder_whose_name_is_not_utf8(place: Path, tmp_path: Path) -> None:
    """Its name is in no argument, but it is where the command runs."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    table = (place / "t.csv").read_bytes()
    Path(os.fsdecode(folder), "t.csv").write_bytes(table)
    fit = ["fit", "t.csv", "--target", "kind", "-o", "m", *FAST]
    assert run(*fit, cwd=folder).returncode == 0
    assert run("predict", "m", "t.csv", "-o", "o.csv", cwd=folder).returncode == 0
    one_sentence(run(*fit, cwd=folder), "'m' exists")


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "nonsense"])
def test_locales(tmp_path: Path, locale: str) -> None:
    csv_of(NUMBERS.rename({"place": "plâce 🎬"}), tmp_path / "t-é.csv")
    environment = {**os.environ, "LC_ALL": locale, "LANG": locale}
    fit = ["fit", "t-é.csv", "--target", "kind", "-o", "m-é", *FAST]
    ended = run(*fit, cwd=tmp_path, env=environment)
    assert ended.returncode == 0
    assert "m-" in ended.stdout
    assert "Traceback" not in ended.stderr
    ended = run("predict", "m-é", "t-é.csv", cwd=tmp_path, env=environment)
    assert ended.returncode == 0


# --------------------------------------------------------------------------------------- terminals


def on_a_terminal(*arguments: object, cwd: Path, **environment: str) -> bytes:
    """What a terminal receives from a command's standard output and error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROCESS, *map(str, arguments)],
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody holds the other end
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    process.wait(timeout=60)
    return seen


EVIL = "\x1b]0;owned\x07\x1b[31m"


def test_control_characters_are_shown_as_escapes(tmp_path: Path) -> None:
    """In names, categories, target values, paths and errors; in a file they are what they were."""
    kinds = {"yes": f"yes{EVIL}", "no": "no\u202e\x9b"}
    table = NUMBERS.with_columns(kind=NUMBERS["kind"].replace_strict(kinds))
    table = table.with_columns(place=table["place"] + EVIL).rename({"place": f"place{EVIL}"})
    csv_of(table, tmp_path / "t.csv")
    fit = ["fit", tmp_path / "t.csv", *FAST, "--target"]
    model = tmp_path / f"m{EVIL}"
    good = [*fit, "kind", "--positive", kinds["yes"], "-o", model]
    results = [done(*good), done("predict", model, tmp_path / "t.csv", "-o", f"{model}.csv")]
    assert "\\x1b[31m" in results[0].stderr
    for arguments in (
        good,  # it exists
        ["predict", model, f"{EVIL}.csv"],
        [*fit, f"x{EVIL}", "-o", "n"],
        [*fit, "kind", "--positive", f"x{EVIL}", "-o", "n"],
    ):
        results.append(torchbce(*arguments))
        assert results[-1].exit_code == 2
    outputs = [output for result in results for output in (result.stdout, result.stderr)]
    outputs += [run(f"--{EVIL}").stderr, run(EVIL).stderr]
    for output in outputs:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", output)
    assert kinds["yes"] in Path(f"{model}.csv").read_text()
    assert kinds["yes"] in done("predict", model, tmp_path / "t.csv").stdout
    seen = on_a_terminal("predict", model, tmp_path / "t.csv", cwd=tmp_path)
    assert b"\\x1b[31m" in seen
    assert b"\x1b" not in seen
    assert b"\xc2\x9b" not in seen


def test_a_narrow_terminal_cuts_no_figure(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = done("evaluate", place / "m", place / "t.csv")
    monkeypatch.setenv("COLUMNS", "10")
    narrow = done("evaluate", place / "m", place / "t.csv")
    assert narrow.stdout == wide.stdout
    fit = ["fit", place / "t.csv", "--target", "kind", "-o", tmp_path / "m", *FAST]
    ended = done(*fit)
    assert "…" not in ended.stdout + ended.stderr
    assert "categorical" in ended.stderr


def test_progress_on_redirected_standard_error_is_short(tmp_path: Path) -> None:
    csv_of(numbers(300), tmp_path / "t.csv")
    fit = ["fit", tmp_path / "t.csv", "--target", "y", "-o", tmp_path / "m", "--patience", "99"]
    ended = done(*fit)
    assert len(ended.stderr.splitlines()) < 20


# ----------------------------------------------------------------------------------------- signals


def ended_by(
    number: signal.Signals, after: float, *arguments: object, cwd: Path, **environment: str
) -> tuple[int, str]:
    """The exit status and standard error of a command that a signal ends after some seconds."""
    process = subprocess.Popen(
        [*PROCESS, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    time.sleep(after)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture(scope="module")
def started() -> float:
    """The seconds that Python itself takes to start: a signal before that is not ours."""
    before = time.perf_counter()
    subprocess.run([sys.executable, "-m", "torchbce", "--version"], capture_output=True)
    return time.perf_counter() - before


@pytest.mark.parametrize("after", [0.1, 0.3, 0.6, 1.0, 1.5])
def test_control_c_while_libraries_load(tmp_path: Path, started: float, after: float) -> None:
    csv_of(numbers(20_000), tmp_path / "t.csv")
    fit = ["fit", "t.csv", "--target", "y", "-o", "m", "--model", "mlp", "-q"]
    status, said = ended_by(signal.SIGINT, started + after, *fit, cwd=tmp_path)
    assert (status, said) == (130, "torchbce: interrupted\n")
    assert names_in(tmp_path) == {"t.csv"}


def partial(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".torchbce-")]


@pytest.mark.parametrize(
    ("number", "ending"),
    [
        (signal.SIGTERM, "parquet"),
        (signal.SIGINT, "csv"),
        pytest.param(signal.SIGHUP, "parquet", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "parquet", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "jsonl", marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_predicting_leaves_no_rows(
    place: Path, tmp_path: Path, number: signal.Signals, ending: str
) -> None:
    """Neither the partial output nor the copy of the rows that waits to become Parquet."""
    (tmp_path / "temporary").mkdir()
    csv_of(pl.concat([NUMBERS] * 20_000), tmp_path / "t.csv")
    process = subprocess.Popen(
        [*PROCESS, "predict", str(place / "m"), "t.csv", "-o", f"o.{ending}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )
    waiting = tmp_path / "temporary" if ending == "parquet" else tmp_path
    until = time.monotonic() + 60
    while not any(path.is_dir() or path.stat().st_size for path in partial(waiting)):
        assert process.poll() is None, "it ended before it wrote anything"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert len(said.splitlines()) == 1
    assert names_in(tmp_path) == {"t.csv", "temporary"}
    assert names_in(tmp_path / "temporary") == set()


def test_signals_that_the_caller_ignores_stay_ignored(place: Path, tmp_path: Path) -> None:
    """nohup ignores SIGHUP, a shell that starts a job in the background SIGINT."""
    script = f"trap '' HUP INT; exec {' '.join(PROCESS)} predict {place}/m {place}/t.csv -o o.csv"
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(0.8)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert names_in(tmp_path) == {"o.csv"}


# ----------------------------------------------------------------------------------------- outputs


def test_overwriting_through_a_link_keeps_the_link(place: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "real.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(Path("data") / "real.csv")
    done("predict", place / "m", place / "t.csv", "-o", link, "--overwrite")
    assert link.is_symlink()
    assert os.readlink(link) == os.path.join("data", "real.csv")
    assert target.read_text().startswith("place,stars,kind,probability")
    assert target.stat().st_mode & 0o777 == 0o640  # what was private stays private
    assert names_in(tmp_path / "data") == {"real.csv"}
    done("predict", place / "m", place / "t.csv", "-o", tmp_path / "new.csv")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_an_output_that_cannot_be_written_is_found_first(
    place: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the table is read, which does not exist here."""

    def refuse(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    if command == "fit":
        arguments = ["fit", "no.csv", "--target", "kind", "-o", tmp_path / "o.csv"]
    else:
        arguments = ["predict", place / "m", "no.csv", "-o", tmp_path / "o.csv"]
    assert "there is no file 'no.csv'" in torchbce(*arguments).stderr
    monkeypatch.setattr(Path, "touch", refuse)
    result = torchbce(*arguments)
    assert result.exit_code == 2
    assert re.fullmatch(r"torchbce: cannot write '.*o.csv': Read-only .*\n", result.stderr)
    assert names_in(tmp_path) == set()


def test_an_output_that_is_a_pipe(place: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "o.csv")
    predict = ["predict", place / "m", place / "t.csv", "-o", tmp_path / "o.csv", "--overwrite"]
    assert "it is a device or a pipe" in torchbce(*predict).stderr
    assert (tmp_path / "o.csv").is_fifo()


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_word_of_overwrite_only_where_it_helps(
    more: tuple[str, ...], place: Path, tmp_path: Path
) -> None:
    (tmp_path / "o.csv").mkdir()
    (tmp_path / "f").write_text("x")
    result = torchbce("predict", place / "m", place / "t.csv", "-o", tmp_path / "o.csv", *more)
    assert result.exit_code == 2
    assert "o.csv': it is a directory; give the name of a file" in result.stderr
    result = torchbce("fit", place / "t.csv", "--target", "kind", "-o", tmp_path / "f", *more)
    assert result.exit_code == 2
    assert "f' is not a model directory, so --overwrite does not replace it" in result.stderr


def test_a_model_directory_of_pipes(place: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    os.mkfifo(tmp_path / "m" / CARD)
    for model, words in ((tmp_path / "m", "not a file"), (place / "t.csv", "is a file; expected")):
        result = torchbce("predict", model, place / "t.csv")
        assert result.exit_code == 2
        assert words in result.stderr
