"""The report: its numbers against scikit-learn, its page as text, and in a browser."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import metrics

from making import done, names_in, torchbce
from torchbce.classifier import Classifier, InputError, TrainingOptions, fit, fit_labels, load, save
from torchbce.classifier.reports.curves import curves_of, wilson
from torchbce.classifier.reports.making import (
    held_out_report,
    read_report,
    report_files,
    table_report,
    write_report,
)
from torchbce.classifier.reports.page import render

BAD = '<script>document.title = "taken"</script>'
PAIRS = TrainingOptions(model="pairs", effort="low")
LINEAR = TrainingOptions(model="linear", effort="low")


def table(rows: int = 600) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    place = random.choice([BAD, 'a "b" & c', "grün"], rows)
    word = random.choice(["good </script>", "bad {{data}}", "<b>fine</b>"], rows)
    z = 2 * x + (place == "grün") - x * (place == BAD)
    return pl.DataFrame(
        {
            '<i onclick="alert(1)">x': x,
            "place": place,
            "note": [
                f"{w} {'x' * int(n)}"
                for w, n in zip(word, random.integers(1, 9, rows), strict=True)
            ],
            BAD: (random.random(rows) < 1 / (1 + np.exp(-z))).astype(int),
        }
    )


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return table()


@pytest.fixture(scope="module")
def classifier(rows: pl.DataFrame) -> Classifier:
    return fit(rows, BAD, options=PAIRS)


@pytest.fixture(scope="module")
def page(classifier: Classifier, rows: pl.DataFrame) -> str:
    return render(held_out_report(classifier, rows)).decode()


# ------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("rows", [1, 2, 7, 30, 5000])
@pytest.mark.parametrize("weighted", [False, True])
def test_curves(rows: int, weighted: bool) -> None:
    random = np.random.default_rng(rows)
    y = (random.random(rows) < 0.4).astype(float)
    p = np.round(1 / (1 + np.exp(-random.normal(2 * y - 1))), 2)  # with ties
    w = random.integers(1, 5, rows).astype(float) if weighted else None
    curves = curves_of(p, y, w)
    weights = np.ones(rows) if w is None else w
    if 0 < y.sum() < rows:
        x_y = np.array([(point.x, point.y) for point in curves.roc])
        area = float(np.trapezoid(x_y[:, 1], x_y[:, 0]))
        # At most 200 points of a curve: its area by trapezoids is right to 1 / 200.
        assert abs(area - metrics.roc_auc_score(y, p, sample_weight=w)) < 5e-3
        assert (np.diff(x_y, axis=0) >= 0).all()
    else:
        assert curves.roc == []
    assert sum(bar.negatives + bar.positives for bar in curves.histogram) == weights.sum()
    assert sum(one.rows for one in curves.reliability) == weights.sum()
    assert all(0 <= one.low <= one.share <= one.high <= 1 for one in curves.reliability)
    for at in curves.thresholds[::40]:
        decided = p >= at.threshold
        assert at.tp == (weights * decided * y).sum()
        assert at.fn == (weights * ~decided * y).sum()
        assert at.tp + at.fp + at.fn + at.tn == weights.sum()
    assert [at.threshold for at in curves.thresholds] == np.linspace(0, 1, 201).tolist()


def test_wilson() -> None:
    statsmodels = (
        (0.0, 0.27753),
        (0.72247, 1.0),
    )  # proportion_confint(0 and 10, 10, method="wilson")
    for share, expected in zip((0.0, 1.0), statsmodels, strict=True):
        np.testing.assert_allclose(wilson(share, 10), expected, atol=1e-5)


def test_the_report_of_a_table_is_what_evaluate_says(
    classifier: Classifier, rows: pl.DataFrame
) -> None:
    report = table_report(classifier, rows)
    logits = classifier.logits(rows)
    y = rows[BAD].to_numpy()
    figures = report.parts[0].figures
    np.testing.assert_allclose(
        figures.log_loss, metrics.log_loss(y, 1 / (1 + np.exp(-logits))), rtol=1e-6
    )
    for wrong in report.parts[0].wrong:
        assert wrong.positive == bool(y[wrong.row - 1])
        assert wrong.positive != (wrong.probability >= 0.5)
        assert wrong.values["note"] == rows["note"][wrong.row - 1]


def test_rows_held_out_are_those_of_the_table() -> None:
    rows = table(300).with_columns(w=pl.Series([0.0, 1.0, 1.0] * 100))
    classifier = fit(rows, BAD, weight="w", options=LINEAR)
    assert classifier.held_out is not None
    at = classifier.held_out.rows
    assert (rows["w"].to_numpy()[at] > 0).all()
    np.testing.assert_array_equal(classifier.held_out.targets, rows[BAD].to_numpy()[at])


def test_losses_of_settings_are_recorded(classifier: Classifier) -> None:
    for tried in classifier.tried:
        assert 1 <= len(tried.path) <= tried.settings
        own = [loss for setting, loss in tried.path if setting == tried.setting]
        assert tried.held_out_loss in own


# ---------------------------------------------------------------------------------------- the page


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))


def test_text_of_the_data_is_escaped(page: str) -> None:
    elements = Elements()
    elements.feed(page)
    assert [tag for tag, _ in elements.found].count("script") == 3
    assert not [tag for tag, _ in elements.found if tag in ("b", "i") and "onclick" in str(_)]
    assert not [attributes for _, attributes in elements.found if "onclick" in attributes]
    assert "bad {{data}}" in page  # a place in the data is text


def test_the_page_asks_for_nothing(page: str) -> None:
    before_scripts = page[: page.index("<script")]
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:,)""", before_scripts)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("rows", [12, 40])
def test_reports_of_few_rows(rows: int) -> None:
    few = pl.DataFrame({"x": [0.5, 1.5, 2.5, 3.5] * (rows // 4), "y": [0, 1] * (rows // 2)})
    classifier = fit(few, "y")
    assert b"not shown to be better than the base rate" in render(held_out_report(classifier, few))
    of_one_class = few.filter(pl.col("y") == 1)
    assert b"have the same target" in render(table_report(classifier, of_one_class))


def test_a_model_that_found_nothing_says_so() -> None:
    random = np.random.default_rng(0)
    noise = pl.DataFrame({"x": random.normal(size=200), "y": random.integers(0, 2, 200)})
    page = render(held_out_report(fit(noise, "y"), noise)).decode()
    assert "is not shown to be better than the base rate" in page


def test_many_labels() -> None:
    rows = table(200).with_columns(high=pl.Series([0, 1, 1, 0] * 50), low=pl.Series([1, 0] * 100))
    classifier = fit_labels(rows.drop(BAD), targets=["high", "low"], options=LINEAR)
    for report in (held_out_report(classifier), table_report(classifier, rows)):
        assert {part.name for part in report.parts} == {"high", "low"}
        page = render(report).decode()
        assert '<select id="label">' in page
        assert "2 labels" in page
    with pytest.raises(InputError, match="is for a model of one target"):
        table_report(classifier, rows, weight="x")


# --------------------------------------------------------------------------------------- the files


def test_a_loaded_model_has_its_report(
    classifier: Classifier, rows: pl.DataFrame, tmp_path: Path
) -> None:
    report = held_out_report(classifier, rows)
    save(classifier, tmp_path / "model", report=report_files(report))
    assert read_report(tmp_path / "model") == report
    loaded = load(tmp_path / "model")
    with pytest.raises(InputError, match="right after a fit only"):
        held_out_report(loaded)
    save(loaded, tmp_path / "model", overwrite=True)
    with pytest.raises(InputError, match=r"has no report.json"):
        read_report(tmp_path / "model")
    (tmp_path / "model" / "report.json").write_text("{}")
    with pytest.raises(InputError, match="is damaged"):
        read_report(tmp_path / "model")


def test_write_report(classifier: Classifier, rows: pl.DataFrame, tmp_path: Path) -> None:
    report = held_out_report(classifier, rows)
    write_report(report, tmp_path / "r.html")
    with pytest.raises(InputError, match="exists"):
        write_report(report, tmp_path / "r.html")
    write_report(report, tmp_path / "r.html", overwrite=True)


def test_the_command(rows: pl.DataFrame, tmp_path: Path) -> None:
    source, model = tmp_path / "t.csv", tmp_path / "model"
    rows.rename({BAD: "y"}).write_csv(source)
    fitting = ("fit", source, "--target", "y", "-o", model, "--effort", "low")
    done(*fitting)
    first = (model / "report.html").read_bytes()
    assert len(first) > 500_000
    done("report", model)
    assert (model / "report.html").read_bytes() == first
    assert "r.html written" in done("report", model, source, "-o", tmp_path / "r.html").stdout
    assert b"On 600 rows of t.csv" in (tmp_path / "r.html").read_bytes()
    assert torchbce("report", model, source, "-o", tmp_path / "r.html").exit_code == 2
    weighted = torchbce("report", model, "--weight", "x")
    assert weighted.exit_code == 2
    assert "--weight and --separator go with TABLE" in weighted.stderr
    done(*fitting, "--overwrite", "--no-report")
    assert names_in(model) == {"history.json", "model.json", "model.safetensors"}
    without = torchbce("report", model)
    assert without.exit_code == 2
    assert "give a table with the target" in without.stderr


# -------------------------------------------------------------------------------------- the browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Any:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(browser: Any, page: str, folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """The page in a browser once it is drawn, and what went wrong there."""
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    tab = browser.new_page(**options)
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text))
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: faults.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("body[data-drawn]", timeout=60_000)
    asked = [fault for fault in faults if fault not in (path.as_uri(), "data:,")]
    return tab, asked


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, page: str, tmp_path: Path, width: int, scheme: str) -> None:
    tab, faults = opened(
        browser, page, tmp_path, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    assert faults == []
    assert tab.title() == f"Classifier of {BAD!r}"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    # Every chart is drawn, inside the page, and says what it is to a screen reader.
    charts = tab.locator(".chart")
    assert charts.count() >= 8
    for n in range(charts.count()):
        svg = charts.nth(n).locator("svg")
        assert svg.locator("path").count() > 2
        assert svg.get_attribute("aria-label")
        assert svg.get_attribute("role") == "img"
        box = svg.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width + 1
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    label = tab.evaluate(
        "getComputedStyle(document.querySelector('#chart-roc .role-axis-label text')).fill"
    )
    assert _contrast(ground, label) >= 4.5  # WCAG 2.2, level AA
    tab.close()


def _contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_threshold(
    browser: Any, page: str, tmp_path: Path, classifier: Classifier, rows: pl.DataFrame
) -> None:
    tab, faults = opened(browser, page, tmp_path)
    slider = tab.get_by_label("Threshold", exact=True)
    at_half = {name: tab.inner_text(f"#{name}") for name in ("tn", "fp", "fn", "tp")}
    confusion = held_out_report(classifier, rows).parts[0].figures.confusion
    assert at_half == {name: f"{getattr(confusion, name):,}" for name in at_half}
    slider.focus()
    for _ in range(40):
        tab.keyboard.press("ArrowLeft")
    assert tab.inner_text("#threshold-value") == "0.300"
    assert slider.get_attribute("aria-valuetext") == "threshold 0.300"
    held_out = classifier.held_out
    assert held_out is not None
    decided = 1 / (1 + np.exp(-held_out.logits)) >= 0.3
    positive = held_out.targets > 0
    counts = {"tp": decided & positive, "fp": decided & ~positive, "fn": ~decided & positive}
    for name, mask in counts.items():
        assert tab.inner_text(f"#{name}") == f"{mask.sum():,}"
    tab.get_by_label("Cost of a false negative").fill("10")
    tab.get_by_label("Cost of a false positive").fill("1")
    cost = 1000 * (counts["fp"].sum() + 10 * counts["fn"].sum()) / len(positive)
    assert float(tab.inner_text("#cost").replace(",", "")) == pytest.approx(cost, abs=0.06)
    tab.get_by_role("button", name="Threshold of the lowest cost").click()
    assert float(tab.inner_text("#threshold-value")) < 0.5
    assert float(tab.inner_text("#cost").replace(",", "")) <= cost + 0.06
    assert "Threshold" in tab.inner_text("#status")
    assert faults == []
    tab.close()


def test_labels_are_chosen(browser: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=300)
    rows = pl.DataFrame({"x": x, "easy": (x > 0).astype(int), BAD: random.integers(0, 2, 300)})
    classifier = fit_labels(rows, targets=["easy", BAD], options=LINEAR)
    tab, faults = opened(browser, render(held_out_report(classifier)).decode(), tmp_path)
    shown = tab.locator("[data-part]:visible .cards").inner_text()
    tab.get_by_label("Charts of the label").select_option(label=BAD)
    assert tab.locator("[data-part]:visible .cards").inner_text() != shown
    assert tab.title() == "Classifier of 2 labels"
    assert faults == []
    tab.close()


def test_the_data_of_the_page_is_json(page: str) -> None:
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert text is not None
    data = json.loads(text[1])
    assert data["parts"][0]["name"] == BAD
    assert {"roc", "reliability", "classes", "net_benefit", "tried"} <= data["charts"].keys()
