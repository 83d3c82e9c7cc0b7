"""Dates and times as features: the same from text and from every type."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from making import done, torchbce
from torchbce.classifier import InputError, TrainingOptions, fit, load, save
from torchbce.classifier.columns.dates import (
    FORMATS,
    ISO,
    PARTS,
    DateColumn,
    date_parts,
    dates_of,
    fit_date,
    moments_of,
)
from torchbce.classifier.columns.encoder import Encoder
from torchbce.classifier.columns.inference import Overrides, infer_columns
from torchbce.classifier.models.features import linear_features

START = datetime.datetime(2023, 1, 3, 10, 30)
MOMENTS = [START + datetime.timedelta(days=5 * i, minutes=97 * i) for i in range(60)]
DAYS = [moment.date() for moment in MOMENTS]


def written(moment: datetime.date, how: str) -> str:
    return moment.strftime(how)


@pytest.mark.parametrize("how", [how for how in FORMATS if how not in ("%Y-%m", "%H:%M")])
@pytest.mark.parametrize("time", ["", " %H:%M", "T%H:%M:%S", ", %I:%M %p", " %H:%M:%S.%f+02:00"])
def test_every_format(how: str, time: str) -> None:
    text = pl.Series("d", [written(moment, how + time) for moment in MOMENTS])
    reading = dates_of(text)
    assert reading.dates == len(MOMENTS)
    assert reading.written == how or {reading.written, how} <= {"%b %d, %Y", "%b %d %Y"}
    whole = MOMENTS if time else [datetime.datetime.combine(d, datetime.time()) for d in DAYS]
    assert moments_of(text, reading.written).to_list() == whole


def test_months_and_times() -> None:
    assert dates_of(pl.Series(["2024-01", "2023-12"])).written == "%Y-%m"
    assert moments_of(pl.Series(["2024-02"]), "%Y-%m")[0] == datetime.datetime(2024, 2, 1)
    times = pl.Series("t", ["10:30", "9:05:59", "12:15 am", "11:00 PM", None])
    assert dates_of(times.drop_nulls()).written == "%H:%M"
    hours = date_parts(times, "%H:%M")["hour"].to_list()
    assert hours == pytest.approx([10.5, 9 + 5 / 60, 0.25, 23, None])


@given(st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)))
def test_the_parts_are_those_of_python(moment: datetime.datetime) -> None:
    moment = moment.replace(microsecond=0)
    parts = date_parts(pl.Series([moment.isoformat()]), ISO)
    days = (moment - datetime.datetime(1970, 1, 1)) / datetime.timedelta(days=1)
    expected = [moment.year, moment.month, moment.isoweekday(), moment.hour + moment.minute / 60]
    assert list(parts) == list(PARTS)
    assert [part[0] for part in parts.values()] == pytest.approx([*expected, days], rel=1e-12)


def features(column: DateColumn, values: pl.Series) -> np.ndarray:
    """The features of the linear model, [rows, width]."""
    encoder = Encoder([column], {})
    indptr, indices, stored, width = linear_features(encoder, encoder.transform(values.to_frame()))
    return sp.csr_matrix((stored, indices, indptr), (len(values), width)).toarray()  # type: ignore[no-any-return]


ZONE = "Europe/Berlin"
SAME: dict[str, pl.Series] = {
    "datetime": pl.Series("d", MOMENTS),
    "milliseconds": pl.Series("d", MOMENTS).cast(pl.Datetime("ms")),
    "nanoseconds": pl.Series("d", MOMENTS).cast(pl.Datetime("ns")),
    "zone": pl.Series("d", MOMENTS).dt.replace_time_zone(ZONE),
    "iso": pl.Series("d", [moment.isoformat() for moment in MOMENTS]),
    "iso with offset": pl.Series("d", [f"{moment.isoformat()}+01:00" for moment in MOMENTS]),
    "iso in UTC": pl.Series("d", [f"{moment.isoformat()}Z" for moment in MOMENTS]),
    "python": pl.Series("d", [str(moment) for moment in MOMENTS]),
    "csv of polars": pl.Series("d", pl.DataFrame(MOMENTS).write_csv().split()[1:]),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_features_from_every_type(name: str) -> None:
    column = fit_date(SAME["datetime"], ISO)
    expected = features(column, SAME["datetime"])
    assert np.array_equal(features(column, SAME[name]), expected)
    assert fit_date(SAME[name], ISO) == column
    assert [part.name for part in column.parts] == list(PARTS[1:])  # the year is constant
    assert expected.shape == (60, sum(part.codes + 1 for part in column.parts))


def test_a_date_is_midnight() -> None:
    column = fit_date(pl.Series("d", DAYS), ISO)
    text = pl.Series("d", [str(day) for day in DAYS])
    assert np.array_equal(features(column, text), features(column, pl.Series("d", DAYS)))
    assert "hour" not in [part.name for part in column.parts]  # it is constant
    assert [part.name for part in column.parts] == ["month", "day of week", "elapsed days"]


def test_missing_and_wrong_values() -> None:
    column = fit_date(pl.Series("d", [*DAYS, None]), ISO)
    text = pl.Series("d", [str(DAYS[0]), None, "NA"])
    got = features(column, text)
    assert np.array_equal(got[1], got[2])
    assert not np.array_equal(got[0], got[1])
    nothing = pl.Series("d", [None, None])
    assert np.array_equal(features(column, nothing), got[1:])
    for value in ("soon", "2024-02-30", "31.12.2024", "2024-13-01"):
        with pytest.raises(InputError) as caught:
            features(column, pl.Series("d", [None, value]))
        assert str(caught.value) == (
            f"column 'd' should hold dates as 2024-12-31, but row 2 holds {value!r}"
        )
    with pytest.raises(InputError, match=r"'d' should hold dates, but its type is Int64"):
        features(column, pl.Series("d", [3]))


# --------------------------------------------------------------------------------------- the kind


def kind_of(values: list[Any]) -> tuple[str, str]:
    table = pl.DataFrame({"d": values, "kept": [0.5, 1.5] * (len(values) // 2)})
    choice = infer_columns(
        table.with_columns(y=pl.Series([0, 1] * (len(values) // 2))), "y", Overrides()
    )
    return choice[0].kind, choice[0].reason


def test_the_choice_shows_how_dates_are_written() -> None:
    assert kind_of([written(d, "%d.%m.%Y") for d in DAYS]) == (
        "date",
        "dates as 31.12.2024, 60 distinct",
    )
    assert kind_of([written(d, "%d/%m/%Y") for d in DAYS])[1].startswith("dates as 31/12/2024, 60")
    early = ["01/02/2024", "03/04/2024"] * 20
    assert kind_of(early) == (
        "date",
        "dates as 12/31/2024 (month first, which no row decides), 2 distinct",
    )
    assert kind_of(["1/2", "3/4"] * 20)[0] == "categorical"
    assert kind_of(["2024-01-01", "x"] * 20)[0] == "categorical"
    assert kind_of([20240101, 20240102, 20240105, 20240107])[0] == "numeric"


def test_one_cell_that_is_no_date() -> None:
    values = [str(day) for day in DAYS]
    values[5] = "unknown"
    with pytest.raises(
        InputError, match=r"holds dates, as '2023-01-03', in 59 of 60 cells, and 1 ot"
    ):
        kind_of(values)


# -------------------------------------------------------------------------------------- end to end


def test_a_date_that_tells_the_target(tmp_path: Path) -> None:
    """From a CSV, then the same model on Parquet, JSON lines and CSV: the same probabilities."""
    random = np.random.default_rng(0)
    start = datetime.datetime(2024, 1, 1)
    moments = [start + datetime.timedelta(hours=int(h)) for h in random.integers(0, 20000, 600)]
    weekend = [int(moment.isoweekday() >= 6) for moment in moments]
    table = pl.DataFrame({"when": moments, "y": weekend})
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet")
    table.write_ndjson(tmp_path / "t.jsonl")
    results = []
    for source in ("csv", "parquet", "jsonl"):
        output = tmp_path / source
        done(
            "fit", tmp_path / f"t.{source}", "--target", "y", "--output", output, "--effort", "low"
        )
        for ending in ("csv", "parquet", "jsonl") if source == "csv" else (source,):
            output = tmp_path / f"{source}-{ending}.parquet"
            done("predict", tmp_path / source, tmp_path / f"t.{ending}", "--output", output)
            results.append(pl.read_parquet(output)["probability"])
    assert all(result.equals(results[0]) for result in results)
    card = load(tmp_path / "csv").card
    assert card.held_out.roc_auc is not None
    assert card.held_out.roc_auc > 0.9
    (column,) = card.columns
    assert isinstance(column, DateColumn)


def test_numbers_stay_apart_from_dates(tmp_path: Path) -> None:
    table = pl.DataFrame({"d": DAYS, "x": [i % 7 for i in range(60)], "y": [0, 1] * 30})
    classifier = fit(table, "y", options=TrainingOptions("linear", effort="low"))
    save(classifier, tmp_path / "m")
    assert load(tmp_path / "m").card == classifier.card
    with pytest.raises(
        InputError, match=r"column 'x' is numeric in the model, but its type here is"
    ):
        classifier.predict(table.with_columns(x=pl.col("d")))
    with pytest.raises(InputError, match=r"target column 'd' is of type Date"):
        fit(table, "d")
    table.with_columns(d=pl.lit("soon")).write_csv(tmp_path / "t.csv")
    result = torchbce("predict", tmp_path / "m", tmp_path / "t.csv")
    assert (result.exit_code, result.stderr) == (
        2,
        "torchbce: column 'd' should hold dates as 2024-12-31, but row 1 holds 'soon'\n",
    )
