"""The table of results/cost.json."""

from common import markdown
from common.markdown import Block, goal
from common.report import Report, Results


def import_goal(found: Results) -> list[str]:
    milliseconds = found["milliseconds"]
    return goal(
        "`from torchbce import BCEWithLogitsLoss` after `import torch`",
        f"{milliseconds:.0f} ms",
        "<= 50 ms",
        milliseconds <= 50,
    )


def reviews_goal(found: Results) -> list[str]:
    return goal(
        "`torchbce fit` on rt_polarity, the whole process",
        f"{found['seconds']:.1f} s, {found['peak_mib']:.0f} MiB",
        "<= 20 s",
        found["seconds"] <= 20,
    )


def long_documents_goal(found: Results) -> list[str]:
    return goal(
        f"`torchbce fit` on 25,000 documents with {found['ngrams']:,} distinct n-grams",
        f"{found['seconds']:.0f} s, {found['peak_mib']:.0f} MiB",
        "about 60 s (at most 75), <= 2,048 MiB",
        found["seconds"] <= 75 and found["peak_mib"] <= 2048,
    )


GOALS = {
    "import": import_goal,
    "rt_polarity": reviews_goal,
    "long_documents": long_documents_goal,
}


def table(found: Results) -> str:
    return markdown.goals([GOALS[name](value) for name, value in found.items()])


def blocks(found: Results) -> list[Block]:
    return [Block("cost", "docs/classifier.md", table(found))]


REPORT = Report("cost", blocks)
