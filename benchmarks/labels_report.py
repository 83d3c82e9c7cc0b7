"""The table of results/labels.json."""

from common import markdown
from common.markdown import Block
from common.report import Report, Results

NAMES = {
    "yeast": "yeast, numbers (mean of 4 seeds)",
    "delicious": "delicious, 500 words",
    "text": "delicious as text, 28 tags",
    "many": "made up, text",
}
COLUMNS = {
    "log_loss": "mean log loss",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "macro_roc_auc": "macro ROC-AUC",
    "P@1": "P@1",
    "P@5": "P@5",
    "seconds": "seconds",
}
LOWER = ("log_loss", "seconds")


def table(found: Results) -> str:
    head = ["data", "rows, test rows, labels", "model", *COLUMNS.values(), "goal", "reached"]
    rows = []
    for part, name in NAMES.items():
        if part not in found:
            continue
        own = found[part]
        size = ", ".join(f"{number:,}" for number in own["size"])
        goals = ", ".join(_goal(key, value) for key, value in own["goals"].items())
        reached = all(_reached(own["torchbce"], key, goal) for key, goal in own["goals"].items())
        figures = _figures(own["torchbce"])
        rows.append([name, size, "torchbce", *figures, goals, markdown.verdict(reached)])
        if own["peer"] is not None:
            rows.append(["", "", own["peer"][0], *_figures(own["peer"][1]), "", ""])
    return markdown.table(head, rows)


def _figures(found: Results) -> list[str]:
    return [_figure(key, found.get(key)) for key in COLUMNS]


def _figure(key: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if key == "seconds" else f"{value:.4f}"


def _goal(key: str, value: float) -> str:
    sign = "<=" if key in LOWER else ">="
    return f"{COLUMNS[key]} {sign} {value:.4g}"


def _reached(found: Results, key: str, goal: float) -> bool:
    value = found[key]
    return bool(value <= goal if key in LOWER else value >= goal)


def blocks(found: Results) -> list[Block]:
    return [Block("labels", "docs/how-to/many-labels.md", table(found))]


REPORT = Report("labels", blocks)
