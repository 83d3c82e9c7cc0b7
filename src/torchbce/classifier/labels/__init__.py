"""A classifier of many labels: several yes/no columns, or one column of label lists.

`sources` reads what a table says of its labels, and `targets` holds it as arrays. `fitting` goes
from a table to a `LabelsClassifier` (`model`): few labels have a linear model each (`linear`) and a
network together (`network`, `network_fit`), which `combining` weighs for each label; many labels
have the network alone, with a `torchbce.LinearBCELoss` as its last layer. `metrics` says how good
it is, `storage` and `files` are for its directory and for whole files.
"""
