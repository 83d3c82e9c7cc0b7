"""A model directory: whole or not there, and harmless whatever is in it."""

import copy
import dataclasses
import datetime
import errno
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from making import KIND, UNKIND, names_in, numbers
from torchbce.classifier import (
    Classifier,
    InputError,
    Overrides,
    TrainingOptions,
    fit,
    load,
    outputs,
    save,
    storage,
)
from torchbce.classifier.model import FORMAT
from torchbce.classifier.storage import CARD, HISTORY, TENSORS, check_output

FILES = {CARD, TENSORS, HISTORY}
#: Those that the model is; the other one tells of the training.
MODEL_FILES = [CARD, TENSORS]
MODELS = ["linear", "pairs", "trees", "mlp"]
FAST = TrainingOptions("linear", effort="low")


def mixed(rows: int = 600, seed: int = 0) -> pl.DataFrame:
    """A text, a category, a number and a date, with missing values; two of them work together."""
    random = np.random.default_rng(seed)
    place, size = random.integers(0, 4, rows), random.integers(0, 4, rows)
    y = ((size > 1) ^ (place > 1)) ^ (random.random(rows) < 0.2)
    words = [random.choice(KIND if label else UNKIND) for label in y ^ (random.random(rows) < 0.3)]
    days = [datetime.timedelta(days=int(d)) for d in random.integers(0, 700, rows)]
    return pl.DataFrame(
        {
            "note": [None if i % 17 == 2 else f"a {word} film" for i, word in enumerate(words)],
            "place": [None if i % 11 == 3 else f"p{code}" for i, code in enumerate(place)],
            "size": [None if i % 7 == 3 else x / 2 for i, x in enumerate(size.tolist())],
            "when": [
                None if i % 13 == 5 else datetime.date(2024, 1, 1) + day
                for i, day in enumerate(days)
            ],
            "kind": np.where(y, "yes", "no"),
        }
    )


TABLE = mixed()


def fit_one(model: Any, **options: Any) -> Classifier:
    options = {"effort": "low", "epochs": 2, "pos_weight": "balanced"} | options
    overrides = Overrides(text=["note"])
    return fit(TABLE, "kind", overrides=overrides, options=TrainingOptions(model, **options))


@pytest.fixture(scope="module")
def fitted() -> dict[str, Classifier]:
    """A classifier of each model."""
    return {name: fit_one(name) for name in MODELS}


@pytest.fixture(scope="module")
def every(fitted: dict[str, Classifier]) -> Classifier:
    """A classifier that combines all models."""
    models = [fitted[name].models[0] for name in MODELS]
    assert [model.name for model in models] == MODELS
    weights = dict(zip(MODELS, [0.3, 0.2, 0.4, 0.1], strict=True))
    card = msgspec.structs.replace(fitted["linear"].card, models=weights)
    tried = tuple(one for name in MODELS for one in fitted[name].tried)
    return dataclasses.replace(fitted["linear"], card=card, models=tuple(models), tried=tried)


@pytest.fixture(scope="module", params=[*MODELS, "every", "no model"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    every: Classifier = request.getfixturevalue("every")
    if request.param == "every":
        return every
    if request.param == "no model":
        card = msgspec.structs.replace(every.card, models={})
        return dataclasses.replace(every, card=card, models=())
    one: Classifier = request.getfixturevalue("fitted")[request.param]
    return one


@pytest.fixture(scope="module")
def other() -> Classifier:
    return fit(numbers(), "y", options=FAST)


@pytest.fixture(scope="module")
def saved(every: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    save(every, directory)
    return directory


@pytest.fixture(scope="module")
def third() -> Classifier:
    return fit(numbers(seed=1), "y", options=FAST)


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A model directory to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def contents(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def refusal(directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(directory)
    assert str(directory) in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------------------------- round trip


def test_round_trip(classifier: Classifier, tmp_path: Path) -> None:
    save(classifier, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.card == classifier.card
    assert loaded.tried == classifier.tried
    assert np.array_equal(loaded.logits(TABLE), classifier.logits(TABLE))
    assert loaded.predict(TABLE).equals(classifier.predict(TABLE))
    assert names_in(tmp_path / "model") == FILES
    save(loaded, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "model")


@pytest.mark.parametrize("model", ["auto", *MODELS])
def test_the_same_seed_gives_the_same_bytes(
    fitted: dict[str, Classifier], tmp_path: Path, model: str
) -> None:
    save(fitted[model] if model in fitted else fit_one(model), tmp_path / "one")
    save(fit_one(model), tmp_path / "two")
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    for name in MODEL_FILES:
        assert one[name] == two[name]
    # Times differ from one run to the next.
    untimed = [
        [{**tried, "seconds": 0} for tried in json.loads(files[HISTORY])] for files in (one, two)
    ]
    assert untimed[0] == untimed[1]


def test_a_relative_path(
    other: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "./deep/../other", "third/"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        save(other, Path(name))
        load(Path(name))
    assert names_in(tmp_path) == {"model", "deep", "other", "third"}


def test_permissions_follow_the_umask(other: Classifier, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save(other, tmp_path / "model")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "model" / CARD).stat().st_mode & 0o777 == 0o644


def test_the_card_is_readable_json(saved: Path) -> None:
    text = (saved / CARD).read_text()
    assert len(text.splitlines()) > 50
    assert json.loads(text)["format"] == FORMAT


@pytest.mark.parametrize("model", MODELS)
def test_weights_of_another_model_are_refused(
    fitted: dict[str, Classifier], tmp_path: Path, model: str
) -> None:
    """Their names and shapes are the same; only the SHA-256 in the card tells them apart."""
    one = fitted[model]
    save(one, tmp_path / "a")
    card = json.loads((tmp_path / "a" / CARD).read_text())
    weights = (tmp_path / "a" / TENSORS).read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    arrays = load_arrays(weights)
    bias = {name for name in arrays if name.endswith(("bias", "baseline"))}
    others = save_arrays({n: a + 1 if n in bias else a for n, a in arrays.items()})
    assert len(others) == len(weights)
    (tmp_path / "a" / TENSORS).write_bytes(others)
    assert "does not belong to model.json" in refusal(tmp_path / "a")
    (tmp_path / "a" / TENSORS).write_bytes(weights)
    assert load(tmp_path / "a").card == one.card
    for changed in ({**card, "weights_sha256": "0" * 64}, {**card, "weights_sha256": ""}):
        (tmp_path / "a" / CARD).write_text(json.dumps(changed))
        assert "does not belong to model.json" in refusal(tmp_path / "a")
    del card["weights_sha256"]
    (tmp_path / "a" / CARD).write_text(json.dumps(card))
    assert "does not belong to model.json" in refusal(tmp_path / "a")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_pipe_instead_of_a_file_does_not_wait(model: Path, name: str) -> None:
    (model / name).unlink()
    os.mkfifo(model / name)
    assert f"{name}': it is not a file" in refusal(model)


# --------------------------------------------------------------------------------------- replacing


def test_an_existing_model_is_replaced_with_overwrite(other: Classifier, model: Path) -> None:
    before = contents(model)
    with pytest.raises(InputError, match=r"exists; pass overwrite=True to replace it"):
        save(other, model)
    assert contents(model) == before
    save(other, model, overwrite=True)
    assert load(model).card == other.card
    assert names_in(model.parent) == {"model"}


def test_an_empty_folder_is_replaced_with_overwrite(other: Classifier, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save(other, tmp_path / "model", overwrite=True)
    assert load(tmp_path / "model").card == other.card


@pytest.mark.parametrize("kind", ["file", "folder of others", "model and others"])
def test_a_directory_that_is_not_a_model_is_kept(
    other: Classifier, model: Path, kind: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("precious")
    elif kind == "folder of others":
        place.mkdir()
        (place / "thesis.txt").write_text("precious")
    else:
        place = model
        (place / "thesis.txt").write_text("precious")
    words = "is not a model directory, so overwrite=True does not replace it"
    with pytest.raises(InputError, match=words):
        check_output(place, overwrite=True)
    with pytest.raises(InputError, match=words):
        save(other, place, overwrite=True)
    assert (place if place.is_file() else place / "thesis.txt").read_text() == "precious"
    assert names_in(tmp_path) <= {"model", "place"}


def test_a_missing_parent_folder(other: Classifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder '.*no' to write 'model' into"):
        save(other, tmp_path / "no" / "model")
    assert names_in(tmp_path) == set()


def test_a_folder_that_cannot_be_written_to_is_found_before(
    other: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(self: Path, *arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    check_output(tmp_path / "model", overwrite=False)
    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(InputError, match=r"cannot write '.*model': Read-only file system"):
        check_output(tmp_path / "model", overwrite=False)
    assert names_in(tmp_path) == set()


def test_a_long_name(other: Classifier, tmp_path: Path) -> None:
    """The longest one that the system allows, and one that it does not."""
    save(other, tmp_path / ("m" * 255))
    assert load(tmp_path / ("m" * 255)).card == other.card
    with pytest.raises(InputError, match=r"cannot write '.*m': File name too long"):
        check_output(tmp_path / ("m" * 256), overwrite=False)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_a_link_to_a_model(
    other: Classifier, model: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    link = model.parent / "link"
    link.symlink_to(model)
    save(other, link, overwrite=True)
    assert load(link).card == other.card
    assert names_in(model.parent) == {"model", "link"}


class Killed(BaseException):
    """The process ends here."""


STEPS: list[tuple[ModuleType, str]] = [
    (outputs, "_write"),
    (storage, "save_arrays"),
    (outputs, "_put_in_place"),
    (outputs, "_exchange"),
    (os, "fsync"),
]


@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Killed()])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize(("module", "step"), STEPS, ids=[step for _, step in STEPS])
def test_the_old_model_or_the_new_one(
    third: Classifier,
    other: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    step: str,
    call: int,
    error: BaseException,
    there: bool,
) -> None:
    """An error in any step leaves what was there, and nothing else."""
    directory = tmp_path / "model"
    if there:
        save(third, directory)
    before = contents(directory) if there else None
    real, calls = getattr(module, step), 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return real(*arguments)

    monkeypatch.setattr(module, step, failing)
    try:
        save(other, directory, overwrite=True)
    except InputError as error_raised:
        assert str(error_raised) == f"cannot write {str(directory)!r}: No space left on device"  # noqa: PT017
        assert isinstance(error, OSError)
        failed = True
    except Killed:
        failed = True
    else:
        failed = False
    assert failed == (calls >= call)
    if failed:
        assert (contents(directory) if directory.exists() else None) == before
    else:
        assert load(directory).card == other.card
    assert names_in(tmp_path) == ({"model"} if there or not failed else set())


def test_without_an_exchange_the_old_model_is_put_back(
    other: Classifier, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two names cannot be swapped at once, an error between the renames loses nothing."""
    monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    before = contents(model)
    real = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if Path(target).name == "model":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(InputError, match="Input/output error"):
            save(other, model, overwrite=True)
    survivors = [d for d in model.parent.iterdir() if contents(d) == before]
    assert len(survivors) == 1
    assert names_in(model.parent) <= {"model", "model.old"}
    if survivors[0] == model:
        save(other, model, overwrite=True)
        assert load(model).card == other.card
        assert names_in(model.parent) == {"model"}


KILLED = """
import os, signal, sys
from pathlib import Path
from torchbce.classifier import load, outputs, save
place, new, step = Path(sys.argv[1]), load(Path(sys.argv[2])), sys.argv[3]
real = getattr(outputs, step)
def last(*arguments):
    result = real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(outputs, step, last)
save(new, place, overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["_write", "_exchange"])
def test_kill_9(third: Classifier, other: Classifier, tmp_path: Path, step: str) -> None:
    """After a kill that nothing can catch, the name has the old model or the new one."""
    old, new = tmp_path / "model", tmp_path / "new"
    save(third, old)
    save(other, new)
    before = contents(old)
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(new), step], capture_output=True, timeout=60
    )
    assert ended.returncode == -9, ended.stderr
    assert contents(old) == (before if step == "_write" else contents(new))
    load(old)


FULL = """
import resource, signal, sys
from pathlib import Path
from torchbce.classifier import InputError, load, save
new = load(Path(sys.argv[2]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    save(new, Path(sys.argv[1]), overwrite=True)
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk(third: Classifier, other: Classifier, tmp_path: Path) -> None:
    """A limit on the size of files simulates a full disk."""
    old, new = tmp_path / "model", tmp_path / "new"
    save(third, old)
    save(other, new)
    before = contents(old)
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(old), str(new)], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == f"cannot write {str(old)!r}: File too large\n"
    assert contents(old) == before
    assert names_in(tmp_path) == {"model", "new"}


# ----------------------------------------------------------------------------- damaged and hostile


def test_no_such_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no").startswith("there is no model directory ")
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "file").endswith("file' is a file; expected a model directory")
    assert "is not a model directory: it has no model.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_missing(model: Path, name: str) -> None:
    (model / name).unlink()
    assert refusal(model) == f"{str(model)!r} is not a model directory: it has no {name}"
    (model / name).mkdir()
    assert refusal(model).startswith(f"cannot read {str(model / name)!r}: ")


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_cut(model: Path, name: str) -> None:
    whole = (model / name).read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 20, len(whole) - 4):
        (model / name).write_bytes(whole[:length])
        assert refusal(model).startswith(f"{str(model / name)!r} is damaged: ")


def with_card(model: Path, change: Callable[[Any], Any]) -> Path:
    """The directory with its card changed: by the change's effect, or to what it returns."""
    card = json.loads((model / CARD).read_bytes())
    changed = change(card)
    (model / CARD).write_text(json.dumps(card if changed is None else changed))
    return model


def set_(path: str, value: Any) -> Callable[[Any], None]:
    """A change that sets the value at a dotted path."""

    def change(card: Any) -> None:
        *parents, last = path.split(".")
        for name in parents:
            card = card[int(name)] if name.isdigit() else card[name]
        card[int(last) if last.isdigit() else last] = value

    return change


def delete(name: str) -> Callable[[Any], None]:
    return lambda card: card.pop(name)


@pytest.mark.parametrize("format", [FORMAT + 1, 99, 2**70])
def test_a_newer_format(model: Path, format: int) -> None:
    sentence = refusal(with_card(model, set_("format", format)))
    assert f"has format {format}, from a newer torchbce; this one reads format {FORMAT}" in sentence
    # A newer card may have any shape.
    assert "from a newer" in refusal(with_card(model, lambda card: {"format": format}))


def test_an_older_format(model: Path) -> None:
    sentence = refusal(with_card(model, set_("format", 1)))
    assert "has format 1, from an older torchbce" in sentence
    assert sentence.endswith("Fit the model again.")


JSON_CHANGES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda card: [card],
    "a number": lambda card: 7,
    "an empty object": lambda card: {},
    "format 0": set_("format", 0),
    "format -1": set_("format", -1),
    "format true": set_("format", True),
    "format as text": set_("format", str(FORMAT)),
    "format 1.5": set_("format", 1.5),
    **{
        f"no {name}": delete(name)
        for name in ("format", "target", "threshold", "base", "models", "pos_weight", "columns")
    },
    "threshold 2": set_("threshold", 2.0),
    "threshold as text": set_("threshold", "0.5"),
    "pos_weight 0": set_("pos_weight", 0),
    "pos_weight -1": set_("pos_weight", -1.0),
    "pos_weight null": set_("pos_weight", None),
    "base null": set_("base", None),
    "base huge": set_("base", 1e300),
    "models null": set_("models", None),
    "models a list": set_("models", MODELS),
    "an unknown model": set_("models.transformer", 1.0),
    "a model without a name": set_("models.", 1.0),
    "a weight of text": set_("models.linear", "1"),
    "a negative weight": set_("models.linear", -1.0),
    "a huge weight": set_("models.linear", 1e300),
    "values alike": set_("target.positive", "no"),
    "target null": set_("target", None),
    "target positive": set_("target.positive", 1),
    "target column": set_("target.column", ["y"]),
    "columns {}": set_("columns", {}),
    "columns []": set_("columns", []),
    "columns null": set_("columns", None),
    "a column null": set_("columns.0", None),
    "kind": set_("columns.0.kind", "image"),
    "kind 1": set_("columns.0.kind", 1),
    "column twice": lambda card: card["columns"].append(copy.deepcopy(card["columns"][1])),
    "same name": lambda card: card["columns"][1].update(name=card["columns"][0]["name"]),
    "fewer columns": lambda card: card["columns"].pop(),
    "columns in another order": lambda card: card["columns"].reverse(),
    "units null": set_("columns.0.units", None),
    "units empty": set_("columns.0.units", []),
    "units of another kind": set_("columns.0.units.0.unit", "pixels"),
    "units fewer": lambda card: card["columns"][0]["units"].pop(),
    "units twice": lambda card: card["columns"][0]["units"].append(card["columns"][0]["units"][0]),
    "vocabulary null": set_("columns.0.units.0.vocabulary", None),
    "vocabulary of numbers": set_("columns.0.units.0.vocabulary", [1, 2]),
    "vocabulary twice": lambda card: card["columns"][0]["units"][0].update(
        vocabulary=card["columns"][0]["units"][0]["vocabulary"][:1]
        * len(card["columns"][0]["units"][0]["vocabulary"])
    ),
    "vocabulary shorter": lambda card: card["columns"][0]["units"][1]["vocabulary"].pop(),
    "vocabulary longer": lambda card: card["columns"][0]["units"][1]["vocabulary"].append("zz"),
    "vocabulary empty": set_("columns.0.units.0.vocabulary", []),
    # As many features in all, but none of one unit, which scikit-learn refuses at prediction.
    "vocabulary moved": lambda card: (
        card["columns"][0]["units"][1]["vocabulary"].extend(
            f"zz{gram}" for gram in card["columns"][0]["units"][0]["vocabulary"]
        ),
        set_("columns.0.units.0.vocabulary", [])(card),
    )[1],
    "categories twice": lambda card: card["columns"][1]["categories"].__setitem__(0, "p1"),
    "categories fewer": lambda card: card["columns"][1]["categories"].pop(),
    "categories empty": lambda card: card["columns"][1].update(categories=[], flag_missing=False),
    "categories of null": set_("columns.1.categories", ["p0", None]),
    "categories as text": set_("columns.1.categories", "p0"),
    "a flag of text": set_("columns.1.flag_missing", "no"),
    "a flag less": set_("columns.1.flag_missing", False),
    "scale 0": set_("columns.2.scale", 0.0),
    "scale -1": set_("columns.2.scale", -1.0),
    "scale as text": set_("columns.2.scale", "1"),
    "mean null": set_("columns.2.mean", None),
    "mean NaN": set_("columns.2.mean", float("nan")),
    "mean infinite": set_("columns.2.mean", float("inf")),
    "edges falling": lambda card: card["columns"][2]["edges"].reverse(),
    "edges equal": set_("columns.2.edges", [1.0] * 5),
    "edges fewer": set_("columns.2.edges", [1.0]),
    "many edges": set_("columns.2.edges", [float(i) for i in range(100_000)]),
    "edges of null": set_("columns.2.edges", [None]),
    "no scale": lambda card: card["columns"][2].pop("scale"),
    "written null": set_("columns.2.written", None),
    "decimal x": set_("columns.2.written.decimal", "x"),
    "a bracket for thousands": set_("columns.2.written.thousands", "["),
    "a letter for thousands": set_("columns.2.written.thousands", "x"),
    "dates in no format": set_("columns.3.written", "("),
    "dates in another format": set_("columns.3.written", "%Q"),
    "no parts": set_("columns.3.parts", []),
    "parts fewer": lambda card: card["columns"][3]["parts"].pop(),
    "parts twice": lambda card: card["columns"][3]["parts"].append(card["columns"][3]["parts"][0]),
    "a part of another name": set_("columns.3.parts.0.name", "century"),
    "a part of the same name": set_("columns.3.parts.0.name", "elapsed days"),
    "a part null": set_("columns.3.parts.0", None),
    "the edges of a part": lambda card: card["columns"][3]["parts"][-1]["edges"].reverse(),
    "held_out null": set_("held_out", None),
    "options a list": set_("options", []),
    "dropped a list": set_("dropped", []),
    "missing null": set_("missing", None),
    "weights_sha256 a number": set_("weights_sha256", 7),
    "versions of numbers": set_("versions", {"torch": 2}),
    "rows as text": set_("rows", "24"),
}


@pytest.mark.parametrize("change", JSON_CHANGES.values(), ids=JSON_CHANGES.keys())
def test_a_card_of_the_wrong_shape(model: Path, change: Callable[[Any], Any]) -> None:
    sentence = refusal(with_card(model, change))
    assert "is damaged: " in sentence
    assert len(sentence) < 1000


def test_edges_that_do_not_increase(model: Path) -> None:
    edges = json.loads((model / CARD).read_bytes())["columns"][2]["edges"]
    assert len(edges) > 2
    for wrong in (edges[::-1], [edges[0], edges[0], *edges[2:]]):
        with_card(model, set_("columns.2.edges", wrong))
        assert "column 'size' has edges that do not increase" in refusal(model)


RAW: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a card",
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"format":' * 50_000 + b"1" + b"}" * 50_000,
    "not UTF-8": b'{"format": 1, "target": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "two cards": b'{"format": 1}{"format": 1}',
    "a long number": b'{"format": ' + b"9" * 10_000 + b"}",
    "lone surrogate": b'{"format": 1, "target": "\\ud800"}',
}


@pytest.mark.parametrize("content", RAW.values(), ids=RAW.keys())
def test_a_card_of_any_bytes(model: Path, content: bytes) -> None:
    (model / CARD).write_bytes(content)
    assert len(refusal(model)) < 1000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"scale": ', '"scale": 1e999, "x": '),
        ('"mean": ', '"mean": 1e999, "x": '),
        ('"pos_weight": 1', '"pos_weight": 1e999, "x": 1'),
        ('"scale": ', '"scale": NaN, "x": '),
        ('"scale": ', '"scale": -Infinity, "x": '),
    ],
)
def test_numbers_beyond_floats(model: Path, old: str, new: str) -> None:
    text = (model / CARD).read_text()
    assert old in text
    (model / CARD).write_text(text.replace(old, new, 1))
    assert "is damaged: " in refusal(model)


def test_deep_nesting_in_the_options(model: Path) -> None:
    text = (model / CARD).read_text()
    assert '"options": {' in text
    deep = "[" * 100_000 + "]" * 100_000
    (model / CARD).write_text(text.replace('"options": {', f'"options": {{"x": {deep},', 1))
    assert "is damaged" in refusal(model)


def write_tensors(model: Path, content: bytes) -> Path:
    """The directory with other weights, whose SHA-256 the card holds: of someone who means harm."""
    (model / TENSORS).write_bytes(content)
    return with_card(model, set_("weights_sha256", hashlib.sha256(content).hexdigest()))


def with_arrays(model: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> Path:
    arrays = {name: array.copy() for name, array in load_arrays(tensors_of(model)).items()}
    change(arrays)
    return write_tensors(model, save_arrays(arrays))


def tensors_of(model: Path) -> bytes:
    return (model / TENSORS).read_bytes()


def changed(array: np.ndarray, at: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


#: What an array may be replaced by, none of which is an array of a model.
WRONG_ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray | None]] = {
    "missing": lambda a: None,
    "one more": lambda a: np.concatenate([a, a[-1:]]),
    "one less": lambda a: np.ascontiguousarray(a[:-1]),
    "empty": lambda a: a[:0].copy(),
    "an axis more": lambda a: a[None].copy(),
    "a scalar": lambda a: np.array(a.flat[0]),
    "flat": lambda a: a.flatten() if a.ndim > 1 else a[:, None].copy(),
    "float16": lambda a: np.zeros(a.shape, np.float16),
    "another float": lambda a: np.zeros(
        a.shape, np.float32 if a.dtype == np.float64 else np.float64
    ),
    "another integer": lambda a: np.zeros(a.shape, np.int32 if a.dtype == np.int64 else np.int64),
    "bytes": lambda a: np.zeros(a.shape, np.int8),
}
#: The same for arrays of floats, and for those of indices.
WRONG_FLOATS = {
    "NaN": float("nan"),
    "infinite": float("inf"),
    "minus infinite": float("-inf"),
    "huge": 3e38,
}


def arrays_to_damage(model: Path, of: str) -> dict[str, np.ndarray]:
    found = load_arrays(tensors_of(model))
    # The parts of the trees have the same arrays.
    chosen = {n: a for n, a in found.items() if n.startswith(of) and n.split(".")[1] not in "1234"}
    assert chosen
    return chosen


def refused_with(model: Path, name: str, array: np.ndarray | None) -> str:
    """What is said of the directory with one array replaced; then it is as it was."""
    before = tensors_of(model)
    with_arrays(model, lambda a: a.pop(name) if array is None else a.update({name: array}))
    sentence = refusal(model)
    assert sentence.startswith(f"{str(model / TENSORS)!r} is damaged: ")
    assert len(sentence) < 1000
    write_tensors(model, before)
    return sentence


@pytest.mark.parametrize("of", ["idf", *MODELS])
@pytest.mark.parametrize("wrong", WRONG_ARRAYS)
def test_an_array_of_another_shape_or_type(model: Path, of: str, wrong: str) -> None:
    for name, array in arrays_to_damage(model, of).items():
        # The trees' sets are any number of rows: those that no node names are unused.
        if (name, wrong) == ("trees.0.sets", "one more"):
            continue
        refused_with(model, name, WRONG_ARRAYS[wrong](array))
    load(model)


@pytest.mark.parametrize("of", ["idf", *MODELS])
@pytest.mark.parametrize("wrong", WRONG_FLOATS)
def test_a_number_that_is_no_weight(model: Path, of: str, wrong: str) -> None:
    value = WRONG_FLOATS[wrong]
    for name, array in arrays_to_damage(model, of).items():
        if array.dtype.kind != "f" or (name.endswith("threshold") and wrong != "NaN"):
            continue
        for at in (0, array.size - 1):
            refused_with(model, name, changed(array.reshape(-1), at, value).reshape(array.shape))


def test_a_threshold_may_be_infinite(model: Path) -> None:
    """scikit-learn's own are, where only the missing values go to the other side."""
    for value in (np.inf, -np.inf):
        with_arrays(model, lambda a, v=value: a["trees.0.threshold"].fill(v))  # type: ignore[misc]
        assert np.isfinite(load(model).logits(TABLE)).all()


NAMES: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
    "none": lambda a: a.clear(),
    "another array": lambda a: a.update(extra=np.zeros(2)),
    "another array of a model": lambda a: a.update({"linear.extra": np.zeros(2)}),
    "a long name": lambda a: a.update({"linear." + "x" * 5000: np.zeros(2)}),
    "a long name of none": lambda a: a.update({"x" * 5000: np.full(2, np.nan)}),
    "another part": lambda a: a.update({"trees.7.starts": a["trees.0.starts"]}),
    "one part less": lambda a: a.pop("trees.1.starts"),
    "another pair": lambda a: a.update({"pairs.cells.99": a["pairs.cells.0"]}),
    "another column": lambda a: a.update({"pairs.groups.99": a["pairs.groups.0"]}),
    "another model": lambda a: a.update({"forest.weight": a["linear.weight"]}),
    "another name": lambda a: a.update({"linear.offset": a.pop("linear.bias")}),
}


@pytest.mark.parametrize("change", NAMES.values(), ids=NAMES)
def test_arrays_of_other_names(model: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    sentence = refusal(with_arrays(model, change))
    assert sentence.startswith(f"{str(model / TENSORS)!r} is damaged: ")
    assert len(sentence) < 1000


# Indices that would read foreign memory, or walk around in a circle.

TREE = "trees.0."
LAST = 2**31 - 1
BAD_NODES: dict[str, tuple[str, Any]] = {
    "a column more": ("feature", 99),
    "the last column": ("feature", LAST),
    "itself": ("left", 0),
    "itself on the right": ("right", 0),
    "no child": ("left", -1),
    "far before": ("right", -LAST),
    "beyond": ("left", LAST),
    "sets beyond": ("categories", 100_000),
    "the last set": ("categories", LAST),
    "no rows": ("cover", 0),
    "fewer than no rows": ("cover", -LAST),
}


@pytest.mark.parametrize(("name", "value"), BAD_NODES.values(), ids=BAD_NODES)
def test_a_node_that_leads_out_of_its_tree(model: Path, name: str, value: int) -> None:
    arrays = load_arrays(tensors_of(model))
    assert arrays[TREE + "feature"][0] >= 0
    refused_with(model, TREE + name, changed(arrays[TREE + name], 0, value))


def test_a_node_of_another_tree_or_before(model: Path) -> None:
    arrays = load_arrays(tensors_of(model))
    feature, starts = arrays[TREE + "feature"], arrays[TREE + "starts"]
    inner = np.flatnonzero(feature >= 0)
    second = int(inner[inner >= starts[1]][0])
    for side in ("left", "right"):
        child = arrays[TREE + side]
        refused_with(model, TREE + side, changed(child, 0, int(starts[1])))  # the next tree
        refused_with(model, TREE + side, changed(child, second, 1))  # the tree before
        refused_with(model, TREE + side, changed(child, second, second))  # a circle
        refused_with(model, TREE + side, changed(child, second, len(feature)))


def test_a_set_of_a_number(model: Path) -> None:
    """A number may be any index into a set."""
    arrays = load_arrays(tensors_of(model))
    feature, categories = arrays[TREE + "feature"], arrays[TREE + "categories"]
    assert (categories >= 0).any()
    number = int(np.flatnonzero((feature > 0) & (categories < 0))[0])
    refused_with(model, TREE + "categories", changed(categories, number, 0))
    by_set = int(np.flatnonzero(categories >= 0)[0])
    refused_with(model, TREE + "feature", changed(feature, by_set, int(feature[number])))


def test_trees_that_begin_out_of_place(model: Path) -> None:
    starts = load_arrays(tensors_of(model))[TREE + "starts"]
    nodes = int(starts[-1])
    wrong = [
        starts + 1,
        starts[::-1].copy(),
        changed(starts, 1, 0),
        changed(starts, 1, -5),
        changed(starts, 1, nodes + 5),
        changed(starts, -1, nodes + 1),
        changed(starts, -1, 2**62),
        # Their differences overflow to numbers above 0.
        np.array([0, 2**63 - 1, -(2**63), -1, nodes]),
        np.zeros(0, np.int64),
    ]
    for array in wrong:
        refused_with(model, TREE + "starts", array)


def test_pairs_out_of_range(model: Path) -> None:
    arrays = load_arrays(tensors_of(model))
    columns, cells = arrays["pairs.columns"], arrays["pairs.cells.0"]
    groups = [name for name in arrays if name.startswith("pairs.groups.")]
    for value in (-1, len(groups), LAST, -LAST):
        for at in ((0, 0), (0, 1)):
            refused_with(model, "pairs.columns", changed(columns, at, value))
    for name in groups:
        for value in (-1, -LAST):
            refused_with(model, name, changed(arrays[name], -1, value))
    for name in (f"pairs.groups.{column}" for column in columns[0]):
        refused_with(model, name, changed(arrays[name], 0, LAST))
        refused_with(model, name, changed(arrays[name], 0, 100))
    used = np.argwhere(cells >= 0)
    first, second = tuple(used[0]), tuple(used[1])
    for value in (cells[second], LAST, int(cells.max()) + 1, -1):
        refused_with(model, "pairs.cells.0", changed(cells, first, value))
    refused_with(model, "pairs.cells.0", np.where(cells >= 0, cells + 1, cells).astype(np.int32))


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


TENSOR_FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"not tensors",
    "a pickle": pickle.dumps({"input_bias": [1.0]}),
    "a huge header": (2**63).to_bytes(8, "little") + b"{}",
    "a header of 1 TiB": (2**40).to_bytes(8, "little") + b"{}",
    "no header": safetensors(b""),
    "a list": safetensors([]),
    "deep": safetensors(b"[" * 50_000),
    "no dtype": safetensors({"input_bias": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "offsets beyond": safetensors(
        {"input_bias": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}, bytes(4)
    ),
    "offsets backwards": safetensors(
        {"input_bias": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)
    ),
    "a huge shape": safetensors(
        {"input_bias": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, bytes(4)
    ),
    **{
        f"dtype {dtype}": safetensors(
            {"input_bias": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}, bytes(size)
        )
        for dtype, size in {
            "F4": 1,
            "F8_E4M3": 2,
            "F8_E8M0": 2,
            "U16": 4,
            "U64": 16,
            "C64": 16,
            "F128": 32,
        }.items()
    },
}


@pytest.mark.parametrize("content", TENSOR_FILES.values(), ids=TENSOR_FILES.keys())
def test_a_file_of_tensors_of_any_bytes(model: Path, content: bytes) -> None:
    (model / TENSORS).write_bytes(content)
    assert str(model / TENSORS) in refusal(model)
    write_tensors(model, content)
    assert refusal(model).startswith(f"{str(model / TENSORS)!r} is damaged: ")


def test_a_file_of_torch_is_not_unpickled(model: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (proof,))

    for content in (pickle.dumps(Hostile()),):
        (model / TENSORS).write_bytes(content)
        refusal(model)
    torch.save({"input_bias": Hostile()}, model / TENSORS)
    refusal(model)
    assert not proof.exists()


def test_files_of_two_models(fitted: dict[str, Classifier], every: Classifier, model: Path) -> None:
    """Each card with the weights of each other model, and with their SHA-256."""
    parts = {**fitted, "every": every, "other": fit(numbers(), "y", options=FAST)}
    for name, one in parts.items():
        save(one, model.parent / name)
    for name in parts:
        for of in parts.keys() - {name}:
            shutil.copytree(model.parent / name, model, dirs_exist_ok=True)
            weights = tensors_of(model.parent / of)
            (model / TENSORS).write_bytes(weights)
            assert "does not belong to model.json" in refusal(model)
            assert "is damaged: " in refusal(write_tensors(model, weights))


@pytest.mark.parametrize("value", [0.0, -1.0, 3e38])
def test_idf_out_of_range(model: Path, value: float) -> None:
    with_arrays(model, lambda arrays: arrays["idf.0"].fill(value))
    assert "tensor 'idf.0' must be in [1, 100]" in refusal(model)


@pytest.mark.parametrize("content", [b"", b"{}", b"[{}]", b"null", b"[" * 100_000, b"\xff"])
def test_a_history_that_is_none(model: Path, content: bytes) -> None:
    (model / HISTORY).write_bytes(content)
    assert refusal(model).startswith(f"{str(model / HISTORY)!r} is damaged: ")


def works_or_is_refused(directory: Path) -> None:
    """Predictions, or one `InputError`: for damage that still makes sense."""
    try:
        loaded = load(directory)
        answer = loaded.predict(TABLE)
        loaded.predict(TABLE.cast(pl.String))
    except InputError:
        return
    assert answer["probability"].is_between(0, 1).all()


@given(st.data())
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_random_damage(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Bytes changed, lost or added anywhere: an `InputError`, or a model that works."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    content = bytearray((saved / name).read_bytes())
    head = {CARD: 3000, TENSORS: 9000, HISTORY: 600}[name]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content), head) - 1))
        kind = data.draw(st.sampled_from(["change", "remove", "insert"]))
        if kind == "remove":
            del content[at]
        else:
            byte = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789-.e"[]{},:')))
            content[at : at + (kind == "change")] = bytes([byte])
    target = tmp_path / "damaged"
    target.mkdir(exist_ok=True)
    for file in FILES:
        (target / file).write_bytes(content if file == name else (saved / file).read_bytes())
    if name == TENSORS:
        if data.draw(st.booleans()):
            write_tensors(target, bytes(content))
        elif content != (saved / name).read_bytes():
            refusal(target)
    works_or_is_refused(target)


@given(st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_random_bits_of_an_array(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Bits of any array, with a SHA-256 that fits: an `InputError`, or a model that works."""
    arrays = {name: array.copy() for name, array in load_arrays(tensors_of(saved)).items()}
    name = data.draw(st.sampled_from(sorted(arrays)))
    raw = arrays[name].view(np.uint8).reshape(-1)
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, raw.size - 1))] ^= data.draw(st.integers(1, 255))
    target = tmp_path / "damaged"
    shutil.copytree(saved, target, dirs_exist_ok=True)
    works_or_is_refused(write_tensors(target, save_arrays(arrays)))
