"""The short table of the README, from the results of several benchmarks."""

from common import markdown, results
from common.markdown import Block
from common.report import Report, Results


def gradient_row(ends: Results) -> list[str]:
    (row,) = (row for row in ends["values"] if row["m"] == 15)
    gradient = row["gradient"]
    ours, theirs = (
        abs(gradient[f"{name}, float32"] / gradient["true"] - 1) for name in ("torchbce", "PyTorch")
    )
    return ["error of a positive's gradient at z = 15", f"{ours:.0e}", f"PyTorch {theirs:.0%}"]


def speed_row(kernels: Results) -> list[str]:
    (row,) = (
        row
        for row in kernels["time"]["rows"]
        if row["n"] == 2**24
        and row["input"] == row["target"] == "float32"
        and row["what"] == "forward + backward"
    )
    taken = {name: value / 1000 for name, value in row["microseconds"].items()}
    return [
        "loss and gradient of 2^24 logits, on 2 CPU cores",
        f"{taken['torchbce']:.0f} ms",
        f"PyTorch {taken['PyTorch']:.0f} ms, compiled {taken['compiled']:.0f} ms",
    ]


def small_row(kernels: Results) -> list[str]:
    (row,) = (
        row
        for row in kernels["small"]["rows"]
        if row["n"] == 32 and row["what"] == "forward + backward"
    )
    taken = row["microseconds"]
    return [
        "the same of 32 logits",
        f"{taken['torchbce']:.0f} us",
        f"PyTorch {taken['PyTorch']:.0f} us",
    ]


def memory_row(kernels: Results) -> list[str]:
    (row,) = (
        row for row in kernels["memory"] if row["input"] == "float32" and "backward" in row["what"]
    )
    ours, theirs = (row["peak"][name] / 2**20 for name in ("torchbce", "PyTorch"))
    return ["memory for 2^24 logits", f"{ours:.0f} MiB", f"PyTorch {theirs:.0f} MiB"]


def labels_row(linear: Results) -> list[str]:
    million = linear["million"]
    (row,) = (row for row in million["extra"] if row["measured"])
    return [
        f"memory for 1,000,000 labels of {row['rows']} rows",
        f"{row['torchbce'] / 1e6:.0f} MB",
        f"PyTorch {row['dense'] / 1e6:.0f} MB",
    ]


def classifier_row(classifier: Results) -> list[str]:
    rows = classifier["adult_income"]["classifiers"]

    def shown(name: str) -> str:
        return f"{rows[name]['log_loss']:.4f} in {rows[name]['cpu_seconds']:.0f} s"

    return [
        "log loss on UCI Adult, and CPU time of `fit`",
        shown("torchbce"),
        f"LightGBM {shown('LightGBM')}, logistic regression {shown('logistic regression')}",
    ]


def table(found: Results) -> str:
    """The figures of the classifier and of the other benchmarks."""
    kernels = results.load("kernels")
    rows = [
        gradient_row(results.load("ends")),
        speed_row(kernels),
        small_row(kernels),
        memory_row(kernels),
        labels_row(results.load("linear")),
        classifier_row(found),
    ]
    return markdown.table(["what", "torchbce", "compared with"], rows)


def blocks(found: Results) -> list[Block]:
    return [Block("readme", "README.md", table(found))]


REPORT = Report("classifier", blocks)
