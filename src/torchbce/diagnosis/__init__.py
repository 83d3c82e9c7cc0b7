"""What is wrong with logits or probabilities, given their targets: `diagnose` and `watch`.

records.py       a finding, and the findings of one diagnosis
sample.py        the elements of a call as flat arrays, and what is known about the tensors
statistics.py    log loss, the logistic map that mends it, ranks, and their noise
values.py        targets and inputs outside their range; which of the two domains the input is in
training.py      shapes, weights, ignored elements, saturation, gradients, the initial loss
quality.py       worse than the base rate, miscalibration
labels.py        labels that are flipped, swapped or shifted
diagnose.py      runs the checks on tensors
watch.py         runs them on what a loss module is called with
"""
