"""Tables and the plot of results/classifier.json."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common import markdown, plots
from common.machine import described
from common.markdown import Block, goal
from common.report import Report, Results

DOCUMENT = "docs/classifier.md"

#: A colour and a shape for each classifier, in the order of the tables.
LOOKS = {
    "torchbce": ("#1b6ca8", "circle"),
    "torchbce, effort low": ("#1b6ca8", "triangle-down"),
    "torchbce, linear": ("#1b6ca8", "square"),
    "logistic regression": ("#d95f02", "square"),
    "HistGradientBoosting": ("#d95f02", "circle"),
    "LightGBM": ("#2e8b57", "circle"),
    "TF-IDF + logistic regression": ("#d95f02", "diamond"),
    "TF-IDF + logistic regression, C = 10": ("#d95f02", "triangle-up"),
    "fastText": ("#8e5ea2", "circle"),
}


# ----------------------------------------------------------------------------------------- tables


def whole_table(found: Results) -> str:
    """All figures; the best of a data set in bold."""
    head = ["data set", "classifier", "log loss", "ROC-AUC", "average precision", "ECE"]
    head += ["accuracy", "CPU s", "peak MiB"]
    rows = []
    for name, of in found.items():
        classifiers = of["classifiers"]
        columns = [
            best([row["log_loss"] for row in classifiers.values()], min),
            best([row["roc_auc"] for row in classifiers.values()], max),
            best([row["average_precision"] for row in classifiers.values()], max),
            best([row["ece"] for row in classifiers.values()], min),
            best([row["accuracy"] for row in classifiers.values()], max),
            [f"{row['cpu_seconds']:.1f}" for row in classifiers.values()],
            [f"{row['peak_bytes'] / 2**20:,.0f}" for row in classifiers.values()],
        ]
        for index, classifier in enumerate(classifiers):
            first = f"{name}, {of['how']}" if index == 0 else ""
            rows.append([first, classifier, *(column[index] for column in columns)])
    return markdown.table(head, rows) + "\n" + machines(found)


def best(values: Sequence[float], choose: Callable[[Sequence[str]], str]) -> list[str]:
    """The values in four digits, the best in bold."""
    shown = [f"{value:.4f}" for value in values]
    return [f"**{cell}**" if cell == choose(shown) else cell for cell in shown]


def machines(found: Results) -> str:
    lines = {described(of["machine"]): None for of in found.values()}
    return "Measured on: " + "; ".join(lines) + ".\n"


#: The columns of the README: the best of these classifiers is shown.
SHORT = {
    "torchbce": ("torchbce",),
    "`--effort low`": ("torchbce, effort low",),
    "`--model linear`": ("torchbce, linear",),
    "logistic regression": (
        "logistic regression",
        "TF-IDF + logistic regression",
        "TF-IDF + logistic regression, C = 10",
    ),
    "HistGradientBoosting": ("HistGradientBoosting",),
    "LightGBM": ("LightGBM",),
    "fastText": ("fastText",),
}


def short_table(found: Results) -> str:
    """Log loss and CPU seconds."""
    rows = []
    for name, of in found.items():
        classifiers = of["classifiers"]
        least = min(f"{row['log_loss']:.4f}" for row in classifiers.values())
        cells = []
        for names in SHORT.values():
            measured = [classifiers[other] for other in names if other in classifiers]
            if not measured:
                cells.append("-")
                continue
            row = min(measured, key=lambda row: float(row["log_loss"]))
            loss = f"{row['log_loss']:.4f}"
            loss = f"**{loss}**" if loss == least else loss
            cells.append(f"{loss}, {row['cpu_seconds']:.1f} s")
        rows.append([name, *cells])
    return markdown.table(["data set", *SHORT], rows)


# ------------------------------------------------------------------------------------------ goals


@dataclass(frozen=True)
class Goals:
    """What the default reaches on a data set at the least, and what is aimed at.

    Attributes:
        log_loss: at most.
        aim: of the log loss.
        accuracy: at least.
        cpu_seconds: of the fit, at most.
        linear_cpu_seconds: of the fit of `--model linear`, at most.
        predicted_rows_per_second: at least.
    """

    log_loss: float
    aim: float
    accuracy: float | None = None
    cpu_seconds: float | None = None
    linear_cpu_seconds: float | None = None
    predicted_rows_per_second: float | None = None


GOALS = {
    "adult_income": Goals(
        0.2760,
        0.2742,
        cpu_seconds=25,
        linear_cpu_seconds=8,
        predicted_rows_per_second=1_000_000 / 60,
    ),
    "census_income_kdd": Goals(0.1098, 0.1085),
    "mammography": Goals(0.0470, 0.0450),
    "flights_2001_3m": Goals(0.426, 0.420),
    "rt_polarity": Goals(0.446, 0.440, accuracy=0.79, cpu_seconds=12),
    "sms_spam": Goals(0.040, 0.034),
}
#: Of every data set: the calibration error, and the CPU time of `--effort low` as a share.
ECE, LOW_SHARE = 0.012, 0.2


def goals(name: str, classifiers: Results) -> list[list[str]]:
    auto, low, linear = (
        classifiers[of] for of in ("torchbce", "torchbce, effort low", "torchbce, linear")
    )
    of = GOALS[name]
    loss = auto["log_loss"]
    rows = [
        goal(f"{name}: log loss", f"{loss:.4f}", f"<= {of.log_loss:.4f}", loss <= of.log_loss),
        goal(f"{name}: log loss, aim", f"{loss:.4f}", f"<= {of.aim:.4f}", loss <= of.aim),
        goal(f"{name}: ECE", f"{auto['ece']:.4f}", f"<= {ECE}", auto["ece"] <= ECE),
    ]
    if of.accuracy is not None:
        value = auto["accuracy"]
        what = f"{name}: accuracy"
        rows.append(goal(what, f"{value:.4f}", f">= {of.accuracy}", value >= of.accuracy))
    for what, row, limit in (
        (f"{name}: CPU time", auto, of.cpu_seconds),
        (f"{name}: CPU time of `--model linear`", linear, of.linear_cpu_seconds),
    ):
        if limit is not None:
            seconds = row["cpu_seconds"]
            rows.append(goal(what, f"{seconds:.1f} s", f"<= {limit:g} s", seconds <= limit))
    share = low["cpu_seconds"] / auto["cpu_seconds"]
    what = f"{name}: CPU time of `--effort low`, as a share of the default's"
    rows.append(goal(what, f"{share:.2f}", f"<= {LOW_SHARE}", share <= LOW_SHARE))
    if of.predicted_rows_per_second is not None:
        speed, limit = auto["predicted_rows_per_second"], of.predicted_rows_per_second
        what = f"{name}: predicted rows a minute, reading included"
        rows.append(goal(what, f"{60 * speed:,.0f}", f">= {60 * limit:,.0f}", speed >= limit))
    return rows


def goals_table(found: Results) -> str:
    return markdown.goals(
        [row for name, of in found.items() for row in goals(name, of["classifiers"])]
    )


# ------------------------------------------------------------------------------------------- plot


def plot(found: Results) -> plots.Plot:
    """Log loss against CPU time, a panel for each data set."""
    rows = [
        {
            "data set": name,
            "classifier": classifier,
            "seconds": row["cpu_seconds"],
            "log loss": row["log_loss"],
        }
        for name, of in found.items()
        for classifier, row in of["classifiers"].items()
    ]
    return plots.Plot("classifier.png", rows, chart)


def chart(data: Any) -> Any:
    import altair as alt

    shown = [name for name in LOOKS if name in set(data["classifier"])]
    colours, shapes = ([LOOKS[name][index] for name in shown] for index in (0, 1))
    ticks = alt.Axis(values=[step * 10**power for power in range(4) for step in (1, 2, 5)])
    return (
        alt.Chart(data)
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=alt.X("seconds:Q", axis=ticks, title="CPU seconds of a fit").scale(
                type="log", nice=False, padding=15
            ),
            y=alt.Y("log loss:Q", title="log loss").scale(zero=False, padding=12),
            color=alt.Color("classifier:N", sort=shown, title=None).scale(
                domain=shown, range=colours
            ),
            shape=alt.Shape("classifier:N", sort=shown, title=None).scale(
                domain=shown, range=shapes
            ),
            facet=alt.Facet(
                "data set:N", columns=3, title=None, sort=list(dict.fromkeys(data["data set"]))
            ),
        )
        .properties(width=230, height=190)
        .resolve_scale(x="independent", y="independent")
        .configure_legend(orient="bottom", columns=3, labelLimit=300)
    )


# ----------------------------------------------------------------------------------------- report


def blocks(found: Results) -> list[Block]:
    return [
        Block("classifier", "docs/how-to/compare.md", short_table(found)),
        Block("classifier-goals", DOCUMENT, goals_table(found)),
        Block("classifier-all", DOCUMENT, whole_table(found)),
    ]


def pictures(found: Results) -> list[plots.Plot]:
    return [plot(found)]


REPORT = Report("classifier", blocks, pictures)
