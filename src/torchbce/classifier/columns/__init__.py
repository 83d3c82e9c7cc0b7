"""The columns of a table: what each holds, and its features."""
