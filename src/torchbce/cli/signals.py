"""Ctrl-C and requests to end: one line on standard error, and no temporary file left behind.

The handlers end the process themselves. An exception, as Python raises for Ctrl-C, may arise in the
import of a library that catches or reports it, and has to pass through code that was not written
for it.
"""

import os
import signal
import sys
from types import FrameType

from torchbce.cli import streams

#: What is said for each signal. Windows has no SIGHUP.
SIGNALS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminal closed"}


def handle_signals() -> None:
    """Handle Ctrl-C, SIGTERM and SIGHUP, unless the caller has them ignored, as nohup does."""
    for name in SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    """Remove the temporary files and end with status 128 + the signal's number, as shells count."""
    signal.signal(number, signal.SIG_IGN)  # a second one does not stop the removal
    outputs = sys.modules.get("torchbce.classifier.outputs")
    if remove := getattr(outputs, "remove_temporary", None):
        remove()
    streams.say_last(SIGNALS[signal.Signals(number).name])
    os._exit(128 + number)
