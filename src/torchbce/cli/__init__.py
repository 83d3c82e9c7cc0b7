"""The command line, `torchbce`."""

from torchbce.cli.app import main

__all__ = ["main"]
