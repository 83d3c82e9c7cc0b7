"""The command line, `torchbce`: a thin layer over `torchbce.classifier`.

Results go to standard output, progress and errors to standard error. Exit status 0: done; 2: the
input is wrong, and one sentence says how; 130: interrupted; 1: a fault of this program.
"""

try:
    from torchbce.cli.app import main
except ModuleNotFoundError as error:
    raise SystemExit(
        f"torchbce: {error}. The command line needs more than the library: "
        "pip install 'torchbce[cli]'"
    ) from error

__all__ = ["main"]
