"""The scikit-learn estimator.

- `classifier` has the estimator, `inputs` turns its X into a table or a sparse matrix, `classes` its
  y into targets, and `updates` are the batches of `partial_fit`.
"""
