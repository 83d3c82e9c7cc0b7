"""Names, values and expressions of SQL, as DuckDB reads them."""

from collections.abc import Iterable, Sequence

#: Characters that a literal cannot hold in every database.
_NUL = "\0"


def name(text: str) -> str:
    """A quoted identifier."""
    return '"' + text.replace('"', '""') + '"'


def text(value: str) -> str:
    """A literal of a string."""
    parts = ["'" + part.replace("'", "''") + "'" for part in value.split(_NUL)]
    return parts[0] if len(parts) == 1 else f"({' || chr(0) || '.join(parts)})"


def number(value: float) -> str:
    """A literal of a double precision number, which reads back as the same bits."""
    digits = repr(float(value))
    digits = digits if "e" in digits else f"{digits}e0"
    return f"({digits})" if digits.startswith("-") else digits


def texts(values: Iterable[str]) -> str:
    """A list of literals in parentheses."""
    return f"({', '.join(text(value) for value in values)})"


def total(terms: Sequence[str]) -> str:
    """The sum of some terms, in pairs of pairs: databases limit how deep an expression nests."""
    if not terms:
        return number(0.0)
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({total(terms[:half])}\n + {total(terms[half:])})"


def choice(cases: Iterable[tuple[str, str]], otherwise: str | None = None) -> str:
    """CASE with conditions; NULL where none holds and there is nothing else."""
    rows = [f"WHEN {condition} THEN {value}" for condition, value in cases]
    if not rows:
        return otherwise or "NULL"
    last = [] if otherwise is None else [f"ELSE {otherwise}"]
    return f"CASE {' '.join(rows + last)} END"


def lookup(value: str, cases: Iterable[tuple[str, str]], otherwise: str | None = None) -> str:
    """CASE of the values of an expression."""
    rows = [f"WHEN {key} THEN {found}" for key, found in cases]
    if not rows:
        return otherwise or "NULL"
    last = [] if otherwise is None else [f"ELSE {otherwise}"]
    return f"CASE {value} {' '.join(rows + last)} END"
