"""What `model.json` says is enough to repeat the fit, given the table."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from making import reviews
from torchbce.classifier import Overrides, TrainingOptions, fit, save


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    price = [f"{value:.2f}".replace(".", ",") for value in random.normal(size=150)]
    return reviews(150).with_columns(
        price=pl.Series(price),
        times=random.integers(0, 3, 150),
        doctor=random.integers(0, 12, 150),
        day=random.permutation(150),
        share=random.random(150),
    )


def again(folder: Path, rows: pl.DataFrame) -> Any:
    """A fit of what the card of a model says."""
    card = json.loads((folder / "model.json").read_text())
    kinds: dict[str, list[str]] = {"text": [], "numeric": [], "categorical": []}
    for column in card["columns"]:
        kinds[column["kind"]].append(column["name"])
    others = [name for name in card["row_columns"].values() if name is not None]
    drop = [name for name in card["dropped"] if name not in others]
    target = card["target"]
    of_values = target["kind"] == "values"
    return fit(
        rows,
        target["column"],
        positive=target["positive"] if of_values else None,
        soft=target["kind"] == "soft",
        **card["row_columns"],
        base_rate=card["base_rate"],
        overrides=Overrides(**kinds, drop=drop),
        missing=card["missing"],
        decimal=card["decimal"],
        options=TrainingOptions(**card["options"]),
    )


@pytest.mark.parametrize(
    ("target", "arguments", "options"),
    [
        ("kind", {}, {}),
        ("kind", {"weight": "times", "group": "doctor"}, {"pos_weight": "balanced", "seed": 3}),
        ("share", {"time": "day", "soft": True, "base_rate": 0.2}, {"loss": "focal", "gamma": 1.5}),
    ],
)
def test_a_card_repeats_the_fit(
    target: str, arguments: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    rows = table()
    first = fit(
        rows,
        target,
        decimal=",",
        missing=["none"],
        overrides=Overrides(drop=["place"]),
        options=TrainingOptions(effort="low", **options),
        **arguments,
    )
    save(first, tmp_path / "first")
    second = again(tmp_path / "first", rows)
    save(second, tmp_path / "second")
    tensors = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert hashlib.sha256(tensors[0]).digest() == hashlib.sha256(tensors[1]).digest()
    cards = [json.loads((tmp_path / n / "model.json").read_text()) for n in ("first", "second")]
    for card in cards:
        del card["dropped"], card["target"]["reason"]  # "as you said" the second time
    assert cards[0] == cards[1]
