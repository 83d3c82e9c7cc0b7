"""The command line of every benchmark: measure some parts, save them, write the report.

    python benchmarks/NAME.py [PART ...] [--quick] [--data DIR]

Without PART all parts are measured; "report" measures nothing. `--quick` is a trial with tiny sizes
that prints its tables and saves nothing.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import results
from common.report import Report


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        quick: whether to run with tiny sizes and save nothing.
        data: the folder with one folder per data set.
    """

    quick: bool
    data: Path


#: Measures one part. None if its data set is missing.
Part = Callable[[Options], Any]


def main(description: str | None, parts: Mapping[str, Part], report: Report) -> None:
    """Run a benchmark: results/NAME.json has one entry per part."""
    chosen, options = _arguments(description, parts)
    found = results.load(report.name)
    for part in chosen:
        value = parts[part](options)
        if value is None:
            print(f"no data in {options.data}: {part} is not measured")
            continue
        print(part, value, flush=True)
        if not options.quick:
            found = results.load(report.name)  # what another run has saved meanwhile
        found[part] = value
        if not options.quick:
            results.save(report.name, {name: found[name] for name in parts if name in found})
    if options.quick:
        for block in report.blocks(found):
            print(f"\n{block.marker} of {block.document}\n{block.content}")
    else:
        report.write()


def _arguments(description: str | None, parts: Mapping[str, Part]) -> tuple[list[str], Options]:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join([*parts, "report"])
    parser.add_argument("parts", nargs="*", metavar="PART", help=names)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; saves nothing")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="DIR")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {*parts, "report"}:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {names}")
    chosen = [part for part in parts if not arguments.parts or part in arguments.parts]
    return chosen, Options(arguments.quick, arguments.data)
