"""The columns of a table: what kind each is, and the features that it becomes."""
