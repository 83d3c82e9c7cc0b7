"""The models that a classifier is made of, and the weights that combine their logits."""
