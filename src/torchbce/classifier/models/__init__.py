"""The models that a classifier is made of, and the weights that combine their logits.

- `search` fits the models that suit a table, by `data`, chooses their settings among `candidates`
  on the rows that `parts` holds out, and combines them by the weights of `mixture`.
- `linear` fits the linear model, on the sparse `features` and by the `solver`; `pairs_fit` the one
  of `pairs` of columns; `trees_fit` boosted trees, which `boosting` grows with scikit-learn;
  `network_fit` the `network`.
- `losses` has what the models are fitted by; `recalibration` brings logits back after a loss other
  than binary cross-entropy.
- `members` has the fitted models, `trees` the trees as arrays, evaluated by `tree_loop`; `arrays`
  turns models into named arrays for a file, and back.
"""
