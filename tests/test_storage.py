"""A model directory: whole or not there, and harmless whatever is in it."""

import copy
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

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from making import names_in, numbers, reviews
from torchbce.classifier import (
    Classifier,
    InputError,
    TrainingOptions,
    fit,
    load,
    outputs,
    save,
    storage,
)
from torchbce.classifier.model import FORMAT
from torchbce.classifier.storage import CARD, TENSORS, check_output

FILES = {CARD, TENSORS}
TABLE = reviews(24)


@pytest.fixture(scope="module", params=["linear", "mlp"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    options = TrainingOptions(request.param, epochs=2, pos_weight="balanced")
    return fit(TABLE, "kind", options=options)


@pytest.fixture(scope="module")
def other() -> Classifier:
    return fit(numbers(), "y", options=TrainingOptions(epochs=1))


@pytest.fixture(scope="module")
def saved(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved") / "model"
    save(classifier, directory)
    return directory


@pytest.fixture(scope="module")
def third() -> Classifier:
    return fit(numbers(seed=1), "y", options=TrainingOptions(epochs=1))


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


def test_round_trip(classifier: Classifier, saved: Path) -> None:
    loaded = load(saved)
    assert loaded.card == classifier.card
    assert np.array_equal(loaded.logits(TABLE), classifier.logits(TABLE))
    assert loaded.predict(TABLE).equals(classifier.predict(TABLE))
    assert not loaded.network.training
    assert names_in(saved) == FILES


def test_saving_again_makes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save(load(saved), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)


def test_a_relative_path(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model", "./deep/../other", "third/"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        save(classifier, Path(name))
        load(Path(name))
    assert names_in(tmp_path) == {"model", "deep", "other", "third"}


def test_permissions_follow_the_umask(classifier: Classifier, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        save(classifier, tmp_path / "model")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "model" / CARD).stat().st_mode & 0o777 == 0o644


def test_the_card_is_readable_json(saved: Path) -> None:
    text = (saved / CARD).read_text()
    assert len(text.splitlines()) > 50
    assert json.loads(text)["format"] == FORMAT


def test_weights_of_another_model_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    """Their names and shapes are the same; only the SHA-256 in the card tells them apart."""
    options = TrainingOptions(classifier.card.architecture, epochs=1)
    save(classifier, tmp_path / "a")
    save(fit(TABLE, "kind", options=options), tmp_path / "b")
    card = json.loads((tmp_path / "a" / CARD).read_text())
    weights = (tmp_path / "a" / TENSORS).read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    shutil.copy(tmp_path / "b" / TENSORS, tmp_path / "a" / TENSORS)
    assert "does not belong to model.json" in refusal(tmp_path / "a")
    (tmp_path / "a" / TENSORS).write_bytes(weights)
    assert load(tmp_path / "a").card == classifier.card
    for changed in ({**card, "weights_sha256": "0" * 64}, {**card, "weights_sha256": ""}):
        (tmp_path / "a" / CARD).write_text(json.dumps(changed))
        assert "does not belong to model.json" in refusal(tmp_path / "a")
    del card["weights_sha256"]
    (tmp_path / "a" / CARD).write_text(json.dumps(card))
    assert "does not belong to model.json" in refusal(tmp_path / "a")


@pytest.mark.parametrize("name", [CARD, TENSORS])
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
    (storage, "save_tensors"),
    (outputs, "_put_in_place"),
    (outputs, "_exchange"),
    (os, "fsync"),
]


@pytest.mark.parametrize("there", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Killed()])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize(("module", "step"), STEPS, ids=[step for _, step in STEPS])
def test_the_old_model_or_the_new_one(
    classifier: Classifier,
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
        save(classifier, directory)
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
    assert refusal(tmp_path / "file").startswith("there is no model directory ")
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
        for name in ("format", "target", "threshold", "architecture", "pos_weight", "columns")
    },
    "threshold 2": set_("threshold", 2.0),
    "threshold as text": set_("threshold", "0.5"),
    "pos_weight 0": set_("pos_weight", 0),
    "pos_weight -1": set_("pos_weight", -1.0),
    "pos_weight null": set_("pos_weight", None),
    "architecture": set_("architecture", "transformer"),
    "architecture null": set_("architecture", None),
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
    "vocabulary null": set_("columns.0.vocabulary", None),
    "vocabulary of numbers": set_("columns.0.vocabulary", [1, 2]),
    "vocabulary twice": lambda card: card["columns"][0].update(
        vocabulary=[card["columns"][0]["vocabulary"][0]] * len(card["columns"][0]["vocabulary"])
    ),
    "vocabulary shorter": lambda card: card["columns"][0]["vocabulary"].pop(),
    "vocabulary longer": lambda card: card["columns"][0]["vocabulary"].append("zz"),
    "vocabulary empty": set_("columns.0.vocabulary", []),
    "categories twice": set_("columns.1.categories", ["north", "north"]),
    "categories of null": set_("columns.1.categories", ["north", None]),
    "categories as text": set_("columns.1.categories", "north"),
    "a flag of text": set_("columns.1.flag_missing", "no"),
    "a flag more": set_("columns.1.flag_missing", True),
    "scale 0": set_("columns.2.scale", 0.0),
    "scale -1": set_("columns.2.scale", -1.0),
    "scale as text": set_("columns.2.scale", "1"),
    "mean null": set_("columns.2.mean", None),
    "mean NaN": set_("columns.2.mean", float("nan")),
    "mean infinite": set_("columns.2.mean", float("inf")),
    "edges falling": set_("columns.2.edges", [2.0, 1.0]),
    "edges equal": set_("columns.2.edges", [1.0, 1.0]),
    "edges more": set_("columns.2.edges", [1.0]),
    "many edges": set_("columns.2.edges", [float(i) for i in range(100_000)]),
    "edges of null": set_("columns.2.edges", [None]),
    "no scale": lambda card: card["columns"][2].pop("scale"),
    "held_out null": set_("held_out", None),
    "training a list": set_("training", []),
    "versions of numbers": set_("versions", {"torch": 2}),
    "rows as text": set_("rows", "24"),
}


@pytest.mark.parametrize("change", JSON_CHANGES.values(), ids=JSON_CHANGES.keys())
def test_a_card_of_the_wrong_shape(model: Path, change: Callable[[Any], Any]) -> None:
    sentence = refusal(with_card(model, change))
    assert "is damaged: " in sentence
    assert len(sentence) < 1000


def test_edges_that_do_not_increase(tmp_path: Path) -> None:
    binned = fit(numbers(400), "y", options=TrainingOptions(epochs=1))
    save(binned, tmp_path / "model")
    edges = json.loads((tmp_path / "model" / CARD).read_bytes())["columns"][0]["edges"]
    assert len(edges) == 3
    for wrong in (edges[::-1], [edges[0], edges[0], edges[2]]):
        with_card(tmp_path / "model", set_("columns.0.edges", wrong))
        assert "the edges of column 'a' do not increase" in refusal(tmp_path / "model")


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


def test_deep_nesting_in_the_training_options(model: Path) -> None:
    text = (model / CARD).read_text()
    deep = "[" * 100_000 + "]" * 100_000
    (model / CARD).write_text(text.replace('"training": {', f'"training": {{"x": {deep},', 1))
    assert "is damaged" in refusal(model)


def with_tensors(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    tensors = load_file(model / TENSORS)
    change(tensors)
    save_file(tensors, model / TENSORS)
    return model


TYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)


def as_type(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda t: t.update(input_bias=t["input_bias"].to(dtype))


TENSOR_CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "none": lambda t: t.clear(),
    "one less": lambda t: t.pop("input_bias"),
    "no idf": lambda t: t.pop("idf.0"),
    "one more": lambda t: t.update(extra=torch.zeros(2)),
    "another name": lambda t: t.update(bias=t.pop("input_bias")),
    "a row less": lambda t: t.update({"input.weight": t["input.weight"][1:].contiguous()}),
    "turned": lambda t: t.update({"input.weight": t["input.weight"].T.contiguous()}),
    "flat": lambda t: t.update({"input.weight": t["input.weight"].flatten()}),
    "an axis more": lambda t: t.update({"input.weight": t["input.weight"][None]}),
    "a scalar": lambda t: t.update({"input_bias": torch.tensor(1.0)}),
    "empty": lambda t: t.update({"input_bias": torch.zeros(0)}),
    "idf longer": lambda t: t.update({"idf.0": torch.ones(10_000)}),
    **{f"as {dtype}": as_type(dtype) for dtype in TYPES},
    "idf as float64": lambda t: t.update({"idf.0": t["idf.0"].double()}),
    "NaN": lambda t: t["input.weight"].fill_(float("nan")),
    "infinite": lambda t: t["input_bias"].fill_(float("inf")),
    "idf NaN": lambda t: t["idf.0"].fill_(float("nan")),
}


@pytest.mark.parametrize("change", TENSOR_CHANGES.values(), ids=TENSOR_CHANGES.keys())
def test_tensors_of_the_wrong_shape(
    model: Path, change: Callable[[dict[str, torch.Tensor]], Any]
) -> None:
    sentence = refusal(with_tensors(model, change))
    assert sentence.startswith(f"{str(model / TENSORS)!r} is damaged: ")
    assert len(sentence) < 1000


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


def test_files_of_two_models(other: Classifier, model: Path) -> None:
    save(other, model.parent / "other")
    shutil.copy(model.parent / "other" / TENSORS, model / TENSORS)
    assert "do not fit model.json; both must come from one fit" in refusal(model)


@pytest.mark.parametrize("value", [0.0, -1.0, 3e38])
def test_idf_out_of_range(model: Path, value: float) -> None:
    with_tensors(model, lambda tensors: tensors["idf.0"].fill_(value))
    assert "tensor 'idf.0' must be in [1, 100]" in refusal(model)


def test_text_columns_without_words(model: Path, classifier: Classifier) -> None:
    """A vocabulary may be emptied together with its tensors: then the model reads no word."""
    width = len(json.loads((model / CARD).read_text())["columns"][0]["vocabulary"])
    with_card(model, set_("columns.0.vocabulary", []))

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["idf.0"] = torch.zeros(0)
        tensors["input.weight"] = tensors["input.weight"][width:].contiguous()

    with_tensors(model, change)
    works_or_is_refused(model)


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
    head = 3000 if name == CARD else 600
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
    works_or_is_refused(target)
