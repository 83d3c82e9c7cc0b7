"""The command line, `torchbce`: a thin layer over `torchbce.classifier`.

Results go to standard output; progress, warnings and errors to standard error. Exit status 0: done;
2: the input is wrong, and one sentence says how; 128 + the number of the signal that ended it, 130
for Ctrl-C; 1: a fault of this program.
"""

from torchbce.cli.process import main

__all__ = ["main"]
