"""Tables in and out: the formats round trip, and what is malformed is refused with its line."""

import csv
import gc
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from making import names_in
from torchbce.classifier.errors import InputError
from torchbce.classifier.tables import reading
from torchbce.classifier.tables.carried import numeric_columns
from torchbce.classifier.tables.formats import FORMATS, format_of
from torchbce.classifier.tables.reading import batches, read, scan
from torchbce.classifier.tables.writing import row_writer

TABLE = pl.DataFrame(
    {"a": [1, 2, None], "b": ["x", 'say "hi", twice\n', "é 😀"], "c": [0.5, None, -1.25]}
)


def file(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows(path: Path) -> list[list[Any]]:
    """The header and the rows; no value and an empty one are the same in a CSV."""
    table = read(path)
    return [table.columns, *([value or "" for value in row] for row in table.rows())]


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    with pytest.raises(InputError):
        list(batches(path))
    assert str(path) in str(caught.value)
    return str(caught.value).replace(repr(str(path)), "PATH")


# ----------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    "name", ["t.csv", "t.csv.gz", "t.parquet", "t.jsonl", "T.CSV", "a.b.CSV.GZ"]
)
def test_round_trip(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with row_writer(path, overwrite=False, json_lines=False) as writer:
        writer.write(TABLE[:2])
        writer.write(TABLE[2:])
    got = read(path)
    assert got.columns == TABLE.columns
    assert got.cast(dict(TABLE.schema)).equals(TABLE)  # type: ignore[arg-type]
    assert names_in(tmp_path) == {name}
    if name.lower().endswith(".csv") or name.lower().endswith(".gz"):
        assert set(got.dtypes) == {pl.String}
    else:
        assert got.schema == TABLE.schema


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("t.csv.gz", "t.parquet"):
        contents = []
        for folder in ("one", "other"):
            (tmp_path / folder).mkdir(exist_ok=True)
            path = tmp_path / folder / name
            with row_writer(path, overwrite=False, json_lines=False) as writer:
                writer.write(TABLE)
            contents.append(path.read_bytes())
        assert contents[0] == contents[1]


READABLE: list[tuple[str, str | bytes, list[list[str]]]] = [
    ("plain", "a,b\n1,2\n3,4\n", [["a", "b"], ["1", "2"], ["3", "4"]]),
    ("no last line end", "a,b\n1,2", [["a", "b"], ["1", "2"]]),
    ("CRLF", "a,b\r\n1,2\r\n3,4\r\n", [["a", "b"], ["1", "2"], ["3", "4"]]),
    ("BOM", b"\xef\xbb\xbfa,b\n1,2\n", [["a", "b"], ["1", "2"]]),
    ("BOM and quotes", b'\xef\xbb\xbf"a,z",b\r\n1,2\r\n', [["a,z", "b"], ["1", "2"]]),
    ("quoted comma", 'a,b\n"1,5",2\n', [["a", "b"], ["1,5", "2"]]),
    ("quoted line ends", 'a,b\n"x\n\ny","p\r\nq"\n', [["a", "b"], ["x\n\ny", "p\r\nq"]]),
    ("doubled quotes", 'a,b\n"say ""hi""",2\n', [["a", "b"], ['say "hi"', "2"]]),
    ("quoted header", '"a,z","b\nc"\n1,2\n', [["a,z", "b\nc"], ["1", "2"]]),
    ("blank lines at the end", "a,b\n1,2\n\n\n", [["a", "b"], ["1", "2"]]),
    ("blank lines at the end, CRLF", "a,b\r\n1,2\r\n\r\n", [["a", "b"], ["1", "2"]]),
    ("spaces stay", "a,b\n  x , y\n", [["a", "b"], ["  x ", " y"]]),
    ("zeros stay", "a,b\n007,1.50\n", [["a", "b"], ["007", "1.50"]]),
    ("nothing but commas", "a,b\n,\n,\n", [["a", "b"], ["", ""], ["", ""]]),
    ("empty quotes", 'a,b\n"",1\n', [["a", "b"], ["", "1"]]),
    ("no comments", "#a,b\n#1,2\n", [["#a", "b"], ["#1", "2"]]),
    ("one column", "a\n1\n2\n", [["a"], ["1"], ["2"]]),
    ("one column with a gap", "a\n1\n\n2\n", [["a"], ["1"], [""], ["2"]]),
    ("one column, quoted", 'a\n"x, y"\n"z"\n', [["a"], ["x, y"], ["z"]]),
    ("a name is missing", ",b\n1,2\n", [["", "b"], ["1", "2"]]),
    (
        "nothing after the last column",
        "a,b,,\n1,2,,\n3,4,,\n",
        [["a", "b"], ["1", "2"], ["3", "4"]],
    ),
    ("no name before, nothing after", ",b,\n1,2,\n", [["", "b"], ["1", "2"]]),
    ("quotes in a name", '"say ""a""",b\n1,2\n', [['say "a"', "b"], ["1", "2"]]),
    ("separator line", "sep=;\r\na;b\r\n1,5;2\r\n", [["a", "b"], ["1,5", "2"]]),
    ("separator line, BOM", b'\xef\xbb\xbf"sep=,"\n"a",b\n1,2\n', [["a", "b"], ["1", "2"]]),
    ("no separator line", "sep=,b\n1,2\n", [["sep=", "b"], ["1", "2"]]),
    ("other alphabets", "名,😀\nя,ü\u2028\n", [["名", "😀"], ["я", "ü\u2028"]]),
    ("control characters", "a,b\n\x0b1\x0c,\x1a\n", [["a", "b"], ["\x0b1\x0c", "\x1a"]]),
    # A document of more than csv's own limit, 128 KiB.
    ("long", f"a,b\n{'x' * 200_000},2\n", [["a", "b"], ["x" * 200_000, "2"]]),
]


@pytest.mark.parametrize("zipped", [False, True], ids=["csv", "csv.gz"])
@pytest.mark.parametrize(
    ("content", "expected"), [r[1:] for r in READABLE], ids=[r[0] for r in READABLE]
)
def test_csv(tmp_path: Path, content: str | bytes, expected: list[list[str]], zipped: bool) -> None:
    if zipped:
        content = content.encode() if isinstance(content, str) else content
        path = file(tmp_path, gzip.compress(content), "t.csv.gz")
    else:
        path = file(tmp_path, content)
    assert rows(path) == expected
    together = pl.concat(list(batches(path)))
    assert together.equals(read(path))


def test_the_field_limit_of_the_csv_module_is_restored(tmp_path: Path) -> None:
    before = csv.field_size_limit(131072)
    read(file(tmp_path, "a,b\n1,2\n"))
    refusal(file(tmp_path, "a,b\n1,2,3\n"))
    assert csv.field_size_limit(before) == 131072


def write_text(path: Path, texts: list[str], first: bool) -> Path:
    lines = [f"{t},{i}" if first else f"{i},{t}" for i, t in enumerate(texts)]
    return file(path.parent, "\n".join(["t,n" if first else "n,t", *lines]) + "\n", path.name)


@pytest.mark.parametrize("first", [True, False], ids=["first column", "last column"])
@pytest.mark.parametrize("at", [[0], [3], [0, 1], [1, 3], [2996], [5, 2999]])
def test_a_stray_quote_loses_no_rows(tmp_path: Path, at: list[int], first: bool) -> None:
    """A quote inside a value that is not quoted is read as written, or refused with its line."""
    texts = ["some words"] * (5 if at[-1] < 5 else 3000)
    for i in at:
        texts[i] = 'a 5" pipe'
    path = write_text(tmp_path / "t.csv", texts, first)
    try:
        table = read(path)
    except InputError as error:
        assert f"line {at[0] + 2}" in str(error)  # noqa: PT017
    else:
        assert table["t"].to_list() == texts


@given(
    st.lists(
        st.lists(st.text(alphabet='ab1 ,"\n\ré.', max_size=6), min_size=2, max_size=2),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_python_writes_is_read(tmp_path: Path, values: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["p", "q"], *values])
    assert rows(file(tmp_path, text.getvalue())) == [["p", "q"], *values]


@given(
    st.lists(st.sampled_from(["a", "1", ",", ",", '"', '""', "\n", "\n", "\r\n", " ", "é", "\r"])),
    st.sampled_from(["p", "p,q"]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_is_rejected_or_read_as_python_reads_it(
    tmp_path: Path, pieces: list[str], header: str
) -> None:
    """Any text is refused, or read as Python's csv module reads it: nothing is lost in silence."""
    text = f"{header}\n{''.join(pieces)}"
    try:
        got = rows(file(tmp_path, text))
    except InputError:
        return
    expected = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    one = len(expected[0]) == 1
    assert got == [row or [""] for row in expected if row or one]


# ------------------------------------------------------------------------------------- malformed

MALFORMED: list[tuple[str, str | bytes, str]] = [
    ("short row", "a,b\n1,2\n3\n", "PATH, line 3: 1 value"),
    ("long row", "a,b\n1,2\n3,4,5\n", "PATH, line 3: 3 values where the header names 2 columns"),
    ("after quoted line ends", 'a,b\n"1\n1",2\n3\n', "PATH, line 4: 1 value"),
    ("blank line", "a,b\n1,2\n\n3,4\n", "PATH, line 3: the line is blank"),
    ("blank line, CRLF", "a,b\r\n\r\n3,4\r\n", "PATH, line 2: the line is blank"),
    ("white line", "a,b\n1,2\n   \n3,4\n", "PATH, line 3: "),
    ("open quote", 'a,b\n1,2\n3,"4\n', "PATH, line 3: unexpected end of data"),
    ("text after a quote", 'a,b\n1,2\n"3"x,4\n', "PATH, line 3: "),
    ("two names, one value", "a;b\n1,5;2\n3\n", "PATH has one column, 'a;b'; if ';' separates"),
    ("latin-1", "a,b\n1,2\ncafé,4\n".encode("latin1"), "PATH is not UTF-8 (byte 0xe9"),
    ("UTF-16", "a,b\n1,2\n".encode("utf-16"), "PATH is not UTF-8 (byte 0xff"),
    ("empty", "", "PATH is empty"),
    ("header only", "a,b\n", "PATH has a header and no rows"),
    ("header, no line end", "a,b", "PATH has a header and no rows"),
    ("header and blank lines", "a,b\n\n\n", "PATH has a header and no rows"),
    ("header of BOM", b"\xef\xbb\xbfa,b\r\n", "PATH has a header and no rows"),
    ("blank header", "\na,b\n1,2\n", "PATH has no header in its first line"),
    ("repeated name", "a,b,a\n1,2,3\n", "PATH has more than one column 'a'"),
    ("repeated names", "b,a,b,a\n1,2,3,4\n", "PATH has more than one column 'a' and 'b'"),
    ("repeated no name", ",b,\n1,2,3\n", "PATH has more than one column ''"),
    ("a value without a name", "a,b,,\n1,2,,\n1,2,5,6\n", "PATH has more than one column ''"),
    ("after a separator line", "sep=,\na,b\n1,2\n3\n", "PATH, line 4: 1 value"),
    ("old Macintosh", "a,b\r1,2\r3,4\r", "PATH, line 1: a carriage return without a line feed"),
    ("lone return", "a,b\n1,2\n3\r,4\n", "PATH, line 3: "),
]


@pytest.mark.parametrize(
    ("content", "sentence"), [m[1:] for m in MALFORMED], ids=[m[0] for m in MALFORMED]
)
def test_malformed_csv(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    assert refusal(file(tmp_path, content)).startswith(sentence)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [m[1:] for m in MALFORMED if m[1]],
    ids=[m[0] for m in MALFORMED if m[1]],
)
def test_malformed_csv_in_gzip(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    content = content.encode() if isinstance(content, str) else content
    path = file(tmp_path, gzip.compress(content), "t.csv.gz")
    assert refusal(path).startswith(sentence)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl"])
@pytest.mark.parametrize("before", [0, 1, 5000])
def test_the_error_names_the_line_that_is_not_utf_8(tmp_path: Path, name: str, before: int) -> None:
    """The file is decoded ahead, in pieces of 8 KiB, and is to be named by its first such line."""
    if name == "t.jsonl":
        lines = [b'{"a": "%d"}' % n for n in range(before + 1)] + [b'{"a": "\xfc"}'] * 3
    else:
        lines = [b"\xef\xbb\xbfa,b", *(b"%d,\xc3\xa9" % n for n in range(before)), *[b"9,\xfc"] * 3]
    content = b"\n".join(lines)
    path = file(tmp_path, gzip.compress(content) if name.endswith(".gz") else content, name)
    assert f"is not UTF-8 (byte 0xfc in line {before + 2}); save" in refusal(path)


JSON_LINES: list[tuple[str, str | bytes, str]] = [
    ("not JSON", '{"a": 1}\n{"a": \n', "PATH, line 2: not JSON ("),
    ("two on a line", '{"a": 1} {"a": 2}\n', "PATH, line 1: not JSON (Extra data)"),
    ("an array", '{"a": 1}\n[1]\n', "PATH, line 2: expected an object, as {"),
    ("a number", '{"a": 1}\n\n7\n', "PATH, line 3: expected an object, as {"),
    ("null", "null\n", "PATH, line 1: expected an object"),
    ("latin-1", '{"a": "é"}\n'.encode("latin1"), "PATH is not UTF-8 (byte 0xe9 in line 1)"),
    ("empty", "", "PATH is empty"),
    ("blank", "\n\n", "PATH has no rows"),
    ("not a number", '{"a": 1}\n{"a": NaN}\n', "PATH, line 2: not JSON ("),
    ("infinite", '{"a": 1}\n{"a": -Infinity}\n', "PATH, line 2: not JSON ("),
    ("beyond floats", '{"a": 1}\n{"a": 1e999}\n', "PATH, line 2: "),
    ("deep", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n", "PATH, line 1: "),
    ("5,000 digits", '{"a": 1}\n{"a": ' + "1" * 5000 + "}\n", "PATH, line 2: "),
    ("repeated name", '{"a": 1}\n{"a": 1, "a": 2}\n', "PATH, line 2: "),
]


@pytest.mark.parametrize(
    ("content", "sentence"), [m[1:] for m in JSON_LINES], ids=[m[0] for m in JSON_LINES]
)
def test_malformed_json_lines(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    assert refusal(file(tmp_path, content, "t.jsonl")).startswith(sentence)


def test_json_lines(tmp_path: Path) -> None:
    path = file(tmp_path, '{"a": 1}\r\n\r\n{"a": null, "b": "x"}\n{"b": "y", "a": 2.5}', "t.jsonl")
    assert read(path).to_dict(as_series=False) == {"a": [1, None, 2.5], "b": [None, "x", "y"]}
    late = [*('{"a": 1}' for _ in range(2000)), '{"a": 1, "late": "x"}']
    assert read(file(tmp_path, "\n".join(late), "t.jsonl"))["late"].null_count() == 2000


def test_json_lines_with_bom(tmp_path: Path) -> None:
    path = file(tmp_path, b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', "t.jsonl")
    assert rows(path) == [["a"], [1], [2]]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def no_parquet(content: bytes) -> bytes:
    return b"a,b\n1,2\n"


@pytest.mark.parametrize("damage", [cut, no_parquet, lambda c: c[:8], lambda c: b"PAR1" * 4])
def test_damaged_parquet(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "t.parquet"
    TABLE.write_parquet(path)
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(path).startswith("cannot read PATH as parquet: ")


@pytest.mark.parametrize("damage", [cut, no_parquet, lambda c: c[:4], lambda c: c[:-6] + b"xxxxxx"])
def test_damaged_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    text = "a,b\n" + "".join(f"{i},{i * i}\n" for i in range(5000))
    path = file(tmp_path, damage(gzip.compress(text.encode())), "t.csv.gz")
    assert refusal(path).startswith("cannot read PATH: ")


def test_gzip_with_a_damaged_middle(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(os.urandom(20_000).hex().encode()))
    content[5000:5100] = bytes(100)
    assert "PATH" in refusal(file(tmp_path, bytes(content), "t.csv.gz"))


def test_parquet_without_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    TABLE[:0].write_parquet(path)
    assert refusal(path) == "PATH has a header and no rows"


@pytest.mark.parametrize("name", ["t", "csv", "t.csv.bz2", "t.json", "t.xlsx", "t.gz"])
def test_unknown_endings(tmp_path: Path, name: str) -> None:
    sentence = refusal(file(tmp_path, "a,b\n1,2\n", name))
    assert sentence.startswith("PATH has no known format; its name must end in '.csv', ")
    assert all(ending in sentence for ending in FORMATS)
    with pytest.raises(InputError, match="no known format"):
        format_of(Path(name))


def test_no_such_file_and_a_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.csv") == "there is no file PATH"
    assert refusal(tmp_path / "no" / "no.parquet") == "there is no file PATH"
    (tmp_path / "d.csv").mkdir()
    assert (
        refusal(tmp_path / "d.csv")
        == "PATH is a directory; give a file, or a folder of .parquet files"
    )


def test_a_file_name_is_not_a_pattern(tmp_path: Path) -> None:
    for name in ("a[1].csv", "a*.csv", "a?.parquet", "a[1].jsonl", "a [b] {c}.parquet"):
        path = tmp_path / name
        with row_writer(path, overwrite=False, json_lines=False) as writer:
            writer.write(TABLE)
        assert len(read(path)) == 3, name


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "jsonl"])
def test_batches_keep_the_order(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_ROWS", 7)
    path = tmp_path / f"t.{ending}"
    with row_writer(path, overwrite=False, json_lines=False) as writer:
        writer.write(pl.DataFrame({"n": range(100), "m": "x"}))
    parts = list(batches(path))
    assert len(parts) >= 15
    assert max(map(len, parts)) <= 7
    assert [int(n) for part in parts for n in part["n"]] == list(range(100))


# ---------------------------------------------------------------------------------- what is written


def write_and_fail(path: Path, error: BaseException) -> None:
    before = path.read_bytes() if path.exists() else None
    with row_writer(path, overwrite=path.exists(), json_lines=False) as writer:
        writer.write(TABLE)
        assert (path.read_bytes() if path.exists() else None) == before
        raise error


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "jsonl"])
def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    with pytest.raises(RuntimeError, match="midway"):
        write_and_fail(path, RuntimeError("midway"))
    assert names_in(tmp_path) == set()

    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        write_and_fail(path, KeyboardInterrupt())
    assert path.read_text() == "precious"
    assert names_in(tmp_path) == {path.name}
    # From Python 3.13, an object that writes to the closed file when it is deleted is reported.
    gc.collect()

    with row_writer(path, overwrite=True, json_lines=False) as writer:
        writer.write(TABLE)
    assert len(read(path)) == 3
    assert names_in(tmp_path) == {path.name}


def write(path: Path, overwrite: bool = False) -> None:
    with row_writer(path, overwrite, json_lines=False) as writer:
        writer.write(TABLE)


def test_existing_files_are_not_overwritten(tmp_path: Path) -> None:
    path = file(tmp_path, "precious")
    with pytest.raises(InputError, match=r"t\.csv' exists; pass overwrite=True to replace it"):
        write(path)
    assert path.read_text() == "precious"


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder '.*no' to write 't\.csv' into"):
        write(tmp_path / "no" / "t.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot write '.*d\.csv'"):
        write(tmp_path / "d.csv", overwrite=True)
    with pytest.raises(InputError, match="no known format"):
        write(tmp_path / "t.txt")
    assert names_in(tmp_path) == {"d.csv"}


def test_waiting_rows_of_a_parquet_file_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write(tmp_path / "t.parquet")
    with pytest.raises(RuntimeError, match="midway"):
        write_and_fail(tmp_path / "u.parquet", RuntimeError("midway"))
    assert names_in(tmp_path) == {"t.parquet"}


def test_the_types_of_numbers(tmp_path: Path) -> None:
    path = file(tmp_path, "i,f,s,m\n1,0.5,x,\n2,2,3,4\n")
    assert numeric_columns(scan(path)) == {"i": pl.Int64, "f": pl.Float64, "m": pl.Int64}
    TABLE.write_parquet(tmp_path / "t.parquet")
    assert numeric_columns(scan(tmp_path / "t.parquet")) == {}
