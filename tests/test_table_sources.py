"""Where tables come from: endings, separators, compression, pipes, patterns, several files."""

import gzip
import io
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from making import names_in
from torchbce.classifier.errors import InputError
from torchbce.classifier.tables import sources as sources_module
from torchbce.classifier.tables.reading import batches, read, scan
from torchbce.classifier.tables.writing import row_writer

ROWS = [("1", "x"), ("2", "y, z")]
CSV = 'a,b\n1,x\n2,"y, z"\n'


def file(folder: Path, content: str | bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments, **options)
    return str(caught.value)


# ------------------------------------------------------------------------------------- separators


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.txt", "t.tsv", "t.tsv.gz"])
def test_the_separator_is_seen_in_the_first_lines(
    tmp_path: Path, separator: str, name: str
) -> None:
    text = f'a{separator}b\n1{separator}x\n2{separator}"y, z"\n'
    content = gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text
    table = scan(file(tmp_path, content, name))
    assert table.frame.collect().rows() == ROWS
    usual = "\t" if "tsv" in name else ","
    shown = {"\t": "a tab"}.get(separator, repr(separator))
    assert table.notes == [] if separator == usual else shown in table.notes[0]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("preis;note\n1,5;2\n2,5;3\n", ["preis", "note"]),  # commas in every row
        ("a, b;c\n1;2\n", ["a, b", "c"]),  # a comma in the header only
        ("a;b,c\n1;2,3\n4,5\n", ["a;b", "c"]),  # not in every row
        ("a;b,c\n1;2,3\n", ["a;b", "c"]),  # both: a .csv has commas
        ("note\none; two\nthree\n", ["note"]),
        ("note\none\ttwo\nthree\n", ["note"]),
        ('"a;b"\n1\n2\n', None),
        ("a|b\n1|2|3\n", None),
    ],
)
def test_only_what_is_unambiguous_is_a_separator(
    tmp_path: Path, text: str, columns: list[str] | None
) -> None:
    path = file(tmp_path, text, "t.csv")
    if columns is None:
        assert "separator=" in refusal(path)
    else:
        assert read(path).columns == columns


def test_the_user_says_the_separator(tmp_path: Path) -> None:
    path = file(tmp_path, "a;b,c\n1;2,3\n", "t.csv")
    assert read(path, separator=";").columns == ["a", "b,c"]
    assert read(file(tmp_path, "a:b\n1:2\n", "t.csv"), separator=":").rows() == [("1", "2")]
    tabs = file(tmp_path, "a\tb\n1\t2\n", "t.txt")
    assert read(tabs, separator="tab").rows() == read(tabs, separator="\\t").rows() == [("1", "2")]
    two = file(tmp_path, "a;b|c\n1;2|3\n", "t.csv")
    assert "may be separated by ';' or '|'; say which with separator=';'" in refusal(two)
    for wrong in ("", ";;", '"', "\n", "é"):
        assert refusal(two, separator=wrong).startswith("separator must be one ASCII character")
    assert "values that hold ';'" in refusal(file(tmp_path, "a;b\n1\n", "t.csv"), separator=";")


# ------------------------------------------------------------------------- endings and compression


def zipped(**members: str | bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return content.getvalue()


def zstd(text: str) -> bytes:
    content = io.BytesIO()
    table = pl.DataFrame({"line": text.removesuffix("\n").split("\n")})
    table.write_csv(
        content, include_header=False, quote_style="never", separator="\x01", compression="zstd"
    )
    return content.getvalue()


LINES = '{"a": 1, "b": "x"}\n{"a": 2, "b": "y, z"}\n'
COMPRESSED: dict[str, bytes] = {
    "t.csv.zst": zstd(CSV),
    "t.csv.zip": zipped(t_csv=CSV),
    "t.zip": zipped(folder__="", folder__t_csv=CSV),
    "t.jsonl.zst": zstd(LINES),
    "t.jsonl.zip": zipped(t_jsonl=LINES),
    "t.jsonl.gz": gzip.compress(LINES.encode(), mtime=0),
    "t.ndjson": LINES.encode(),
    "t.NDJSON.gz": gzip.compress(b"\xef\xbb\xbf" + LINES.encode(), mtime=0),
    "padded.csv.gz": gzip.compress(CSV.encode(), mtime=0) + bytes(512),
    "two.csv.gz": gzip.compress(CSV[:8].encode(), mtime=0) + gzip.compress(CSV[8:].encode()),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_files(tmp_path: Path, name: str) -> None:
    path = file(tmp_path, COMPRESSED[name], name)
    assert [(str(a), b) for a, b in read(path).rows()] == ROWS
    assert pl.concat(list(batches(path))).equals(read(path))


@pytest.mark.parametrize("name", ["t.csv.zst", "t.csv.zip", "t.jsonl.gz", "t.jsonl.zst"])
def test_damaged_compressed_files(tmp_path: Path, name: str) -> None:
    good = COMPRESSED[name]
    for content in (good[: len(good) // 2], CSV.encode(), good[:4]):
        path = file(tmp_path, content, name)
        assert refusal(path).startswith(f"cannot read {str(path)!r}: ")


XLSX = zipped(**{"[Content_Types]_xml": "<x/>", "xl__workbook_xml": "<x/>"})
MISNAMED = {
    "t.csv": [
        (gzip.compress(CSV.encode(), mtime=0), "is compressed by gzip", "add '.gz' to its name"),
        (COMPRESSED["t.csv.zip"], "is a zip archive", "add '.zip' to its name"),
        (COMPRESSED["t.csv.zst"], "is compressed by zstd", "add '.zst' to its name"),
        (XLSX, "is an Excel workbook", "save its sheet as CSV"),
        (b"PAR1" + bytes(50), "is a Parquet file", "rename it"),
        (CSV.encode("utf-16-le"), "is not UTF-8", "iconv -f utf-16le -t utf-8"),
        (CSV.encode("utf-16-be"), "is not UTF-8", "iconv -f utf-16be -t utf-8"),
        (CSV.encode("utf-16"), "is not UTF-8", "iconv -f utf-16 -t utf-8"),
    ],
    "t.zip": [
        (XLSX, "is an Excel workbook", "save its sheet as CSV"),
        (zipped(a_csv=CSV, b_csv=CSV), "holds 2 files", "must hold one"),
        (zipped(t_pdf=CSV), "holds 't.pdf'", "does not say its format"),
        (zipped(t_csv=""), "is empty", ""),
    ],
    "t.jsonl": [(gzip.compress(LINES.encode(), mtime=0), "is compressed by gzip", "'.gz'")],
}


@pytest.mark.parametrize(
    ("name", "content", "what", "advice"),
    [(name, *case) for name, cases in MISNAMED.items() for case in cases],
)
def test_content_that_its_name_does_not_say(
    tmp_path: Path, name: str, content: bytes, what: str, advice: str
) -> None:
    path = file(tmp_path, content, name)
    sentence = refusal(path)
    assert sentence.startswith(f"{str(path)!r} {what}")
    assert advice in sentence
    assert ("iconv" in advice) == ("iconv" in sentence)


# --------------------------------------------------------------------------- pipes, standard input


@pytest.mark.parametrize("name", ["t.csv", "pipe"])
@pytest.mark.parametrize(
    "content",
    [CSV.encode(), LINES.encode(), gzip.compress(CSV.encode(), mtime=0), COMPRESSED["t.zip"]],
    ids=["csv", "jsonl", "gz", "zip"],
)
def test_a_named_pipe(tmp_path: Path, name: str, content: bytes) -> None:
    if name == "t.csv" and content != CSV.encode():
        return  # its name says what it is
    pipe = tmp_path / name
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    table = read(pipe)
    writer.join()
    assert [(str(a), b) for a, b in table.rows()] == ROWS


def test_an_empty_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "t.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"",))
    writer.start()
    assert refusal(pipe) == f"{str(pipe)!r} is empty"
    writer.join()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_standard_input(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    content = {"csv": CSV.encode(), "jsonl": LINES.encode()}.get(kind, b"")
    if kind == "parquet":
        buffer = io.BytesIO()
        pl.DataFrame(ROWS, schema=["a", "b"], orient="row").write_parquet(buffer)
        content = buffer.getvalue()
    monkeypatch.setattr(sources_module, "_standard_input", lambda: content)
    assert [(str(a), b) for a, b in read("-").rows()] == ROWS
    monkeypatch.setattr(sources_module, "_standard_input", lambda: b"")
    assert refusal("-") == "standard input is empty"


def test_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    for name, content in (
        (b"caf\xe9.csv", CSV.encode()),
        (b"caf\xe9.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        (b"caf\xe9.jsonl", LINES.encode()),
    ):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(content)
        assert [(str(a), b) for a, b in read(path).rows()] == ROWS
        path.write_bytes(b"")
        refusal(path).encode()  # a terminal can show it


# ---------------------------------------------------------------------------------- several tables


def parts(folder: Path, ending: str) -> list[Path]:
    paths = []
    for number in range(3):
        path = folder / f"part-{number}.{ending}"
        with row_writer(path, overwrite=True, json_lines=False) as writer:
            writer.write(pl.DataFrame({"n": [number, number + 10], "t": ["x", "y"]}))
        paths.append(path)
    return paths


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl", "csv.gz"])
def test_several_files_and_a_pattern(tmp_path: Path, ending: str) -> None:
    paths = parts(tmp_path, ending)
    expected = [0, 10, 1, 11, 2, 12]
    for given in (paths, [str(path) for path in paths], str(tmp_path / f"part-*.{ending}")):
        assert [int(n) for n in read(given)["n"]] == expected
    assert [int(n) for n in read([paths[2], tmp_path / "part-[01].*"])["n"]] == [
        2,
        12,
        0,
        10,
        1,
        11,
    ]
    assert refusal(tmp_path / "no-*.csv").startswith("no file matches '")


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    for year in (2023, 2024):
        (folder / f"year={year}").mkdir(parents=True)
        pl.DataFrame({"n": [year % 10]}).write_parquet(folder / f"year={year}" / "p.parquet")
    (folder / "_SUCCESS").write_text("")
    table = read(folder)
    assert table.rows() == [(3, 2023), (4, 2024)]
    assert table.columns == ["n", "year"]
    flat = tmp_path / "flat"
    flat.mkdir()
    parts(flat, "parquet")
    assert read(str(flat))["n"].to_list() == [0, 10, 1, 11, 2, 12]
    pl.DataFrame({"n": [7]}).write_parquet(flat / "part-3.parquet")
    assert "part-3.parquet' has no column 't', unlike" in refusal(flat)
    (flat / "part-3.parquet").write_bytes(b"PAR1")
    assert "cannot read " in refusal(flat)


def test_files_that_are_not_one_table(tmp_path: Path) -> None:
    one = file(tmp_path, "a,b\n1,2\n", "1.csv")
    other = file(tmp_path, "b,a\n3,4\n", "2.csv")
    assert read([one, other]).rows() == [("1", "2"), ("4", "3")]
    lacking, added = file(tmp_path, "a\n1\n", "3.csv"), file(tmp_path, "a,c,b\n1,2,3\n", "4.csv")
    assert f"{str(lacking)!r} has no column 'b', unlike {str(one)!r}" in refusal([one, lacking])
    assert f"{str(added)!r} has column 'c'" in refusal([one, added])
    lines = file(tmp_path, LINES, "5.jsonl")
    assert "the same format, but these are 'csv' and 'jsonl'" in refusal([one, lines])
    texts = file(tmp_path, '{"a": ["x"], "b": "y"}\n', "6.jsonl")
    assert "column 'a' is of type Int64 in" in refusal([lines, texts])
    header = file(tmp_path, "a,b\n", "7.csv")
    assert read([header, one]).rows() == [("1", "2")]
    assert refusal([]) == "give at least one table"
    assert "a str or Path; got int" in refusal([3])
    assert names_in(tmp_path) == {f"{i}.{'jsonl' if i in (5, 6) else 'csv'}" for i in range(1, 8)}


# --------------------------------------------------------------------------------- no rows, values


@pytest.mark.parametrize("ending", ["csv", "parquet", "tsv", "csv.gz"])
def test_a_table_without_rows(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    with row_writer(path, overwrite=False, json_lines=False) as writer:
        writer.write(pl.DataFrame({"a": ["1"], "b": ["x"]})[:0])
    (batch,) = batches(scan(path, empty=True))
    assert batch.columns == ["a", "b"]
    assert len(batch) == 0
    assert refusal(path) == f"{str(path)!r} has a header and no rows"


MIXED: dict[str, tuple[str, list[Any]]] = {
    "a list and a number": ('{"a": [1, 2]}\n{"a": 1}\n', ["[1, 2]", "1"]),
    "an object and a string": ('{"a": {"k": 1}}\n{"a": "x"}\n', ['{"k": 1}', "x"]),
    "a number and a string": ('{"a": 1}\n{"a": "x"}\n{"a": null}\n', ["1", "x", None]),
    "a bool and a number": ('{"a": true}\n{"a": 1}\n', ["true", "1"]),
    "53 bits": (
        '{"a": 9007199254740993}\n{"a": 0.5}\n{"a": null}\n',
        ["9007199254740993", "0.5", None],
    ),
    "64 bits": ('{"a": 9223372036854775808}\n{"a": 1}\n', ["9223372036854775808", "1"]),
    "large, beside null": ('{"a": 9007199254740993}\n{"a": null}\n', [9007199254740993, None]),
    "integers and floats": ('{"a": 1}\n{"a": 0.5}\n', [1.0, 0.5]),
    "lists of different kinds": ('{"a": [1]}\n{"a": [[1]]}\n', ["[1]", "[[1]]"]),
}


@pytest.mark.parametrize("name", MIXED)
def test_json_lines_of_different_kinds(tmp_path: Path, name: str) -> None:
    text, expected = MIXED[name]
    path = file(tmp_path, text, "t.jsonl")
    got = read(path)["a"].to_list()
    assert got == expected or [str(v).replace(" ", "") for v in got] == [
        v.replace(" ", "") for v in expected
    ]


def test_a_list_next_to_a_mixed_column_stays_a_list(tmp_path: Path) -> None:
    text = '{"a": [1], "m": 1, "f": 1, "n": null}\n{"a": [], "m": "x", "f": 0.5, "z": true}\n'
    table = read(file(tmp_path, text, "t.jsonl"))
    assert table["a"].to_list() == [[1], []]
    assert table["m"].to_list() == ["1", "x"]
    assert table["f"].to_list() == [1.0, 0.5]
    assert table["z"].to_list() == [None, True]
