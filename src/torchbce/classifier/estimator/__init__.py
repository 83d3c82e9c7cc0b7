"""The scikit-learn estimator.

- `classifier` has the estimator, `inputs` turns X into a table or a sparse matrix, `classes` turns
  y into targets, `updates` are the batches of `partial_fit`, and `context` is what the command
  line adds.
"""
