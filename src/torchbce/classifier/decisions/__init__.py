"""Decisions from probabilities: thresholds, guarantees, and rows that stay undecided.

`counts.py` counts what each threshold gets right and wrong, `objectives.py` says what a good
threshold is, `thresholds.py` chooses one on rows held out, and `guarantees.py` finds one that holds
with a stated confidence.
"""

from torchbce.classifier.decisions.counts import Counts, count_thresholds
from torchbce.classifier.decisions.guarantees import Certified, Guarantee, certify
from torchbce.classifier.decisions.objectives import Objective
from torchbce.classifier.decisions.thresholds import ChosenThreshold, choose_threshold

__all__ = [
    "Certified",
    "ChosenThreshold",
    "Counts",
    "Guarantee",
    "Objective",
    "certify",
    "choose_threshold",
    "count_thresholds",
]
