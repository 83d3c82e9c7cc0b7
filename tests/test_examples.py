"""The examples run, say nothing on stderr, and print the facts that their comments promise."""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NUMBER = r"-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)"


def start(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def run(name: str) -> str:
    done = start(name)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def line(text: str, beginning: str) -> str:
    """The one line that begins so."""
    (found,) = (row for row in text.splitlines() if row.startswith(beginning))
    return found


def numbers(text: str, beginning: str) -> list[float]:
    """The numbers of that line, after its beginning."""
    return [float(x) for x in re.findall(NUMBER, line(text, beginning)[len(beginning) :])]


def test_every_example_has_a_test() -> None:
    tested = set(re.findall(r'"(\w+\.py)"', Path(__file__).read_text()))
    assert {path.name for path in EXAMPLES.glob("*.py")} <= tested


def test_losses_by_hand() -> None:
    out = run("losses_by_hand.py")
    assert "rounded: 0.1372" in out
    for name in ("by hand, clamped", "torchbce binary_cross_entropy  "):
        assert numbers(out, name)[-1] == pytest.approx(-math.log(0.8 * 0.95) / 2, abs=1e-7)
    easy, soft = out.split("Logits 5 -2 .5")[1].split("every label .25:")
    soft = soft.split("\n\n")[0]
    assert re.findall(r"mean (\S+)", easy) == ["0.2025734479"] * 5
    whole, short, ours = (float(x) for x in re.findall(r"mean (\S+)", soft))
    assert whole == ours
    assert abs(short - ours) > 0.2

    table = out.split("truth\n")[1].splitlines()
    rows = {tuple(map(float, row.split()[:2])): list(map(float, row.split()[2:])) for row in table}
    assert len(rows) == 16
    for (z, y), (naive, clamp, torch_loss, ours, truth) in rows.items():
        margin = z if y == 1 else -z
        assert truth == pytest.approx(
            max(-margin, 0) + math.log1p(math.exp(-abs(margin))), rel=1e-3, abs=0
        )
        # At 100 float32 is subnormal: spaced 1.4e-45, which is 4% of this loss.
        assert ours == pytest.approx(truth, rel=0.06 if margin == 100 else 1e-3, abs=0)
        # What the comment below the table says of the others.
        if abs(z) >= 17 and margin > 0:
            assert clamp == pytest.approx(1.192e-7)
            assert naive == 0 or (z, y) == (-17, 0)
            assert torch_loss == 0 or math.isnan(torch_loss) or z > 0
        if z >= 17 and y == 0:
            assert naive == math.inf
        if margin < -16.2:
            assert clamp < 16.2
    assert [rows[z, 0.0][2] for z in (-17.0, -40.0, -100.0)] == [0, 0, 0]
    assert sum(math.isnan(row[2]) for row in rows.values()) == 3


def test_two_ways_to_train() -> None:
    out = run("two_ways_to_train.py")
    (base,) = numbers(out, "600 points, ")
    first = numbers(out, "sigmoid in the model, BCELoss")
    second = numbers(out, "logits out, BCEWithLogitsLoss")
    assert first == pytest.approx(second, abs=2e-3)
    assert first[0] < 0.4
    assert first[1] > 0.8
    assert first[-1] == pytest.approx(base, abs=0.02)
    (difference,) = numbers(out, "largest difference of their probabilities: ")
    assert difference < 1e-3

    loss, accuracy, low, high, mean = numbers(out, "sigmoid twice, as the loss sees it")
    floor = numbers(out, "its loss cannot fall below ")[0]
    assert floor == pytest.approx(base * 0.31326 + (1 - base) * 0.69315, abs=5e-4)
    assert first[0] + 0.2 < floor < loss
    assert (low, high) == (0.5, 0.731)
    assert accuracy == pytest.approx(base, abs=0.02)
    assert mean > base + 0.15
    ends = numbers(out, "share of outputs within .02 of 0 or 1: ")
    assert ends[1] > 2 * ends[0]
    errors = numbers(out, "mean squared error of the probabilities: ")
    assert errors[1] > errors[0] + 0.01

    caught = line(out, "logits into BCELoss: ")
    assert "probabilities must be in [0, 1]. These look like logits" in caught


def test_imbalanced() -> None:
    out = run("imbalanced.py")
    assert line(out, "20 positives, 80 negatives").endswith("pos_weight = 80 / 20 = 4")
    assert numbers(out, "sum over positives ") == [13.86, 55.45]
    assert numbers(out, "sum over negatives ") == [55.45, 55.45]
    assert numbers(out, "mean ") == [0.6931, 1.1090]

    rate = float(re.findall(r"New rows, of which (\S+) are", out)[0])
    assert rate == pytest.approx(0.02, abs=0.003)
    names = ("without pos_weight     ", "with pos_weight", "with it, and corrected")
    plain, weighted, corrected = (numbers(out, name) for name in names)
    assert weighted[0] > plain[0] + 0.4  # recall
    assert weighted[1] < plain[1] / 3  # precision
    assert weighted[2] > 5 * rate  # mean prediction
    assert weighted[3] > 3 * plain[3]  # log loss
    assert plain[2] == pytest.approx(rate, abs=0.002)
    assert corrected[2] == pytest.approx(rate, abs=0.002)
    assert corrected[3] == pytest.approx(plain[3], abs=0.001)
    assert corrected[0] == pytest.approx(plain[0], abs=0.05)
    threshold, recall = numbers(out, "without pos_weight, at the threshold ")
    assert threshold == pytest.approx(0.02, abs=0.002)
    assert recall == pytest.approx(weighted[0], abs=0.03)


def test_multi_label() -> None:
    out = run("multi_label.py")
    (total,) = numbers(out, '"sum" divides by nothing:')
    elements, mean = numbers(out, '"mean" divides by every element,')
    rows, by_row, labels, again = numbers(out, "sum over labels, then mean over rows, ".rstrip())
    assert (elements, rows, labels) == (24, 8, 3)
    assert total == pytest.approx(24 * mean, abs=24 * 5e-5)
    assert by_row == pytest.approx(3 * mean, abs=2e-4)
    assert again == mean

    classes = numbers(out, "by class:")
    assert len(classes) == 3
    pixels = numbers(out, "pixels (2, 3, 4, 5): ")
    assert pixels[0] == 120
    assert pixels[1] == pytest.approx(sum(classes) / 3, abs=1e-4)
    first = numbers(out, "the first class alone, still over 120: ")
    assert first[0] == pytest.approx(classes[0] / 3, abs=1e-4)

    assert line(out, "share of a label's loss").endswith("[0.5, 0.5, 0.5]")
    counts = line(out, "positives by label [3, 4, 6] of 8:")
    assert counts.endswith("pos_weight 1.6667 1.0000 0.3333")

    hit, miss = math.log1p(math.exp(-3)), 3 + math.log1p(math.exp(-3))
    wrong, right = line(out, "by hand, (4, 1) with (4,): "), line(out, "torchbce: ")
    assert "shape (4, 4)" in wrong
    assert "shape (4, 1)" in right
    assert float(wrong.split()[-1]) == pytest.approx((hit + miss) / 2, abs=1e-4)
    assert float(right.split()[-1]) == pytest.approx(hit, abs=1e-4)
    refused = line(out, "(4, 1) with (1, 4): ")
    assert "input has shape (4, 1) and target has shape (1, 4); they must be equal" in refused


def test_export_head() -> None:
    out = run("export_head.py")
    assert numbers(out, "loss after 20 epochs:")[0] < 0.01
    assert line(out, "loaded into nn.Linear").endswith("<All keys matched successfully>")
    # Equal logits may be in another order.
    assert numbers(out, "the exported program finds head.topk:")[0] > 0.99
    assert numbers(out, "P@1:")[0] > 0.95
    if importlib.util.find_spec("onnxscript") and importlib.util.find_spec("onnxruntime"):
        assert numbers(out, "ONNX finds head.topk:")[0] > 0.99


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_label_shards(processes: int) -> None:
    script = "label_shards.py"
    if processes == 1:
        out = run(script)
    else:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        done = subprocess.run(
            [*launcher, f"--nproc-per-node={processes}", str(EXAMPLES / script)],
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert done.returncode == 0, done.stderr
        out = done.stdout
    held = {1: "[1001]", 2: "[501, 500]"}[processes]
    assert line(out, "1001 labels over ").endswith(f"{processes} processes: {held}")
    assert numbers(out, "P@1 before:")[0] < 0.05
    assert numbers(out, "loss after 20 epochs:")[0] < 0.002
    assert numbers(out, "P@1 after:")[0] > 0.95
    assert numbers(out, "P@1 after:") == numbers(out, "P@1 loaded:")
    assert line(out, "one more epoch of both").endswith("True")


@pytest.fixture(scope="module")
def sentiment() -> subprocess.CompletedProcess[str]:
    return start("sentiment.py")


def test_sentiment_by_hand(sentiment: subprocess.CompletedProcess[str]) -> None:
    out = sentiment.stdout
    assert "24 reviews, 12 of them positive" in out
    losses = [numbers(out, f"epoch {epoch}  loss ")[0] for epoch in (100, 200, 300, 400, 500)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] < math.log(2) / 3
    assert losses[-1] < 0.005
    assert numbers(out, "accuracy on the reviews it learnt from:") == [1.0]
    positive, negative = (float(x) for x in re.findall(r"^(\S+) positive: ", out, re.MULTILINE))
    assert positive > 0.9
    assert negative < 0.1


def test_sentiment_by_command_line(sentiment: subprocess.CompletedProcess[str]) -> None:
    assert sentiment.returncode == 0, sentiment.stderr
    _, *sections = sentiment.stdout.split("\n$ torchbce ")
    assert [section.split()[0] for section in sections] == ["fit", "predict", "predict"]
    assert numbers(sections[0], "  relative to the base rate")[0] < 0.9
    positive, negative = (numbers(section, "probability")[0] for section in sections[1:])
    assert positive > 0.8
    assert negative < 0.2
