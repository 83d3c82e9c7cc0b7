"""Measurements in processes of their own, so that one does not change the memory of another."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent

#: glibc returns freed blocks above 64 KiB to the system. Otherwise memory that was freed before the
#: measurement would be used again in it, and would not raise the peak.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}

CALL = """
import importlib, json, sys
folder, module, function, arguments = sys.argv[1:]
sys.path.insert(0, folder)
result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
print(json.dumps(result))
"""


def in_process(
    function: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None
) -> Any:
    """Call a function of a module of this folder in a new Python process.

    Args:
        function: a function of a module; arguments and result must be JSON values.
        arguments: its positional arguments.
        environment: variables to set in addition to those of this process.
    """
    module = function.__module__
    if module == "__main__":
        module = Path(sys.modules["__main__"].__file__ or "").stem
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(FOLDER), module, function.__name__, json.dumps(arguments)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
