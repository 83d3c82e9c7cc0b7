"""The one exception that means: the caller's input is wrong, and this sentence says how."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What came, what was expected, what to do. The command line prints it and exits with 2."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that is not among `known`, with the nearest ones suggested."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    lowered = [n for n in names if n.lower() == name.lower() and n not in near]
    if suggestions := lowered + near:
        hint = f"did you mean {listing(suggestions, joiner='or')}?"
    else:
        hint = f"the names are {listing(names, most=12)}"
    return InputError(f"{what} {name!r} is not in the table; {hint}")


def listing(values: Iterable[object], most: int = 6, joiner: str = "and") -> str:
    """'a', 'b' and 'c'; beyond `most` values, how many more there are."""
    shown = [_short(repr(value)) for value in values]
    if len(shown) > most:
        return ", ".join(shown[:most]) + f" {joiner} {len(shown) - most} more"
    return f" {joiner} ".join(filter(None, [", ".join(shown[:-1]), shown[-1] if shown else ""]))


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
