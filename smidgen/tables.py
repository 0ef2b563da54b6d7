"""Files into tables: named columns of cells, and for each row the number by which a message calls it.

csv and tsv (a header; quotes as csv has them), jsonl, txt (one text a line), conll (a word and its tag a line, a blank
line between sentences), each also as .gz; parquet; and the data sets of the Hugging Face Hub. What a cell means is not
known here: see `smidgen.data`.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from smidgen.errors import DataError, MissingExtra, did_you_mean

SUFFIXES = ("csv", "tsv", "jsonl", "parquet", "txt", "conll")
FORMATS = "csv, tsv, jsonl (these also as .gz), parquet, conll, or txt with one text a line"
HUB_ID = re.compile(r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<config>[\w.-]+))?(:(?P<split>[\w.-]+))?")
HUB_SPLITS = {"dev": "validation", "unlabeled": "train"}


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, and the number of each row.

    The number is that of the line where the row starts (a csv header is row 1), or counts from 1 without lines.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def fault(self, row: int, message: str) -> DataError:
        """The error that says `message` of the row at this index."""
        return DataError(f"{self.source}, row {self.rows[row]}: {message}")


def read_table(source: str, part: str = "train") -> Table:
    """The table of a file, or of a Hub id `org/name@config:split` where there is no such file.

    Args:
        part: "train", "dev", "test" or "unlabeled": the split of a Hub id that does not name one.

    Raises DataError for what cannot be read, MissingExtra for parquet or a Hub id without their packages.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if _kind(p) in SUFFIXES)
        found = f" In it: {', '.join(inside[:5])}." if inside else ""
        raise DataError(f"{source} is a folder, wanted a file: {FORMATS}.{found}")
    if not path.exists():
        if _kind(path) not in SUFFIXES and HUB_ID.fullmatch(source):
            return _read_hub(source, part)
        raise DataError(f"{source}: no such file.{_near(path)} Check the path.")
    if _kind(path) not in SUFFIXES:
        got = path.suffix or "a file without a suffix"
        raise DataError(f"{source}: cannot read {got}, wanted {FORMATS}. Save it as one of these.")
    kind = _kind(path)
    table = _read_parquet(source, path) if kind == "parquet" else read_text(source, _text(source, path), kind)
    if not len(table):
        raise DataError(f"{source} has a header and no rows. Add at least one row under it.")
    return table


def read_text(source: str, text: str, kind: str) -> Table:
    """The table of the text of a csv, tsv, jsonl, conll or txt file."""
    if not text.strip():
        raise DataError(f"{source} is empty. Give a file with data in it: {FORMATS}.")
    readers: dict[str, Callable[[str, str], Table]] = {
        "csv": _read_csv,
        "tsv": _read_tsv,
        "jsonl": _read_jsonl,
        "conll": _read_conll,
    }
    return readers.get(kind, _read_lines)(source, text)


def decode(source: str, data: bytes) -> str:
    """UTF-8, with or without its mark, into text; DataError with the place for another encoding and for NUL bytes."""
    advice = "Convert it: iconv -f {} -t utf-8 OLD > NEW"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or data.count(0) > len(data) // 4:
        raise DataError(f"{source} is UTF-16 from byte 0, wanted UTF-8. {advice.format('utf-16')}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        row = data.count(b"\n", 0, error.start) + 1
        guess = "windows-1252" if 0x80 <= byte < 0xA0 else "latin1"
        place = f"{source}, row {row}: byte {error.start} (0x{byte:02x})"
        raise DataError(f"{place} is not UTF-8, perhaps {guess}. {advice.format(guess)}") from None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{source}, row {row}: a NUL byte, wanted text. Remove them: tr -d '\\000' < OLD > NEW")
    return text.removeprefix("\ufeff")


def need(package: str, what: str) -> Any:
    """The package, imported; MissingExtra where it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise MissingExtra(f"{what} needs {name}. Install it with: pip install 'smidgen[train]'") from None


def _kind(path: Path) -> str:
    name = path.name.lower()
    kind = Path(name.removesuffix(".gz")).suffix[1:]
    return "" if name.endswith(".gz") and kind == "parquet" else kind


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f" There is no folder {str(path.parent)!r} either."
    return did_you_mean(path.name, [p.name for p in path.parent.iterdir()])


def _text(source: str, path: Path) -> str:
    try:
        data = path.read_bytes()
        return decode(source, gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} cannot be read: {error}. Check that it is whole and readable.") from None


def _unique(source: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        count = names.count(twice[0])
        raise DataError(f"{source}: the column {twice[0]!r} occurs {count} times. Rename or remove one.")


def _read_tsv(source: str, text: str) -> Table:
    return _read_csv(source, text, "\t")


def _read_csv(source: str, text: str, delimiter: str = ",") -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    rows: list[int] = []
    start = 1
    limit = csv.field_size_limit(2**31 - 1)
    try:
        for record in reader:
            if record:
                if records and len(record) != len(records[0]):
                    raise _ragged(source, start, record, records[0])
                if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in record):
                    raise DataError(
                        f"{source}, row {start}: a quote opens a text of several lines with tabs in it. Take the quote "
                        "out, or put quotes around the text and write it twice. Where the text is so, give it as csv."
                    )
                records.append(record)
                rows.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        said = "a quote opens and never closes" if "end of data" in str(error) else f"broken quotes: {error}"
        raise DataError(f"{source}, row {start}: {said}. Close it, and write a quote inside quotes twice.") from None
    finally:
        csv.field_size_limit(limit)
    header = [name.strip() for name in records[0]]
    _unique(source, header)
    cells = zip(*records[1:], strict=True) if records[1:] else ((),) * len(header)
    return Table(source, dict(zip(header, cells, strict=True)), rows[1:])


def _ragged(source: str, row: int, record: Sequence[str], header: Sequence[str]) -> DataError:
    return DataError(
        f"{source}, row {row}: got {len(record)} cells, wanted {len(header)} ({', '.join(header)}). "
        "Put quotes around a text that holds the separator or a line break."
    )


def _read_jsonl(source: str, text: str) -> Table:
    columns: dict[str, list[Any]] = {}
    rows: list[int] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = _json_object(source, number, line)
        if not rows:
            columns = {name: [] for name in record}
        if record.keys() != columns.keys():
            raise DataError(
                f"{source}, row {number}: got the keys {', '.join(record) or 'none'}; wanted {', '.join(columns)}, "
                f"as in row {rows[0]}. Give every row the same keys."
            )
        for name, cell in record.items():
            columns[name].append(cell)
        rows.append(number)
    return Table(source, columns, rows)


def _json_object(source: str, number: int, line: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _unique(f"{source}, row {number}", [name for name, _ in pairs])
        return dict(pairs)

    wanted = 'wanted one object a line, such as {"text": "...", "label": "..."}'
    try:
        record = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        column = getattr(error, "colno", 1)
        said = getattr(error, "msg", str(error))
        raise DataError(f"{source}, row {number}, column {column}: not JSON ({said}); {wanted}.") from None
    if not isinstance(record, dict):
        raise DataError(f"{source}, row {number}: got {line.strip()[:40]!r}; {wanted}.")
    return record


def _read_lines(source: str, text: str) -> Table:
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    return Table(source, {"text": lines}, range(1, len(lines) + 1))


def _read_conll(source: str, text: str) -> Table:
    """Columns `tokens` and `tags`: the first and the last field of each line, a list a sentence."""
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    rows: list[int] = []
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or fields[0] == "-DOCSTART-":
            inside = False
            continue
        if not inside and _comment(fields):
            continue
        if len(fields) == 1:
            raise DataError(
                f"{source}, row {number}: got {line.strip()!r}, wanted a word and its tag with a space between."
            )
        if not inside:
            tokens.append([])
            tags.append([])
            rows.append(number)
            inside = True
        tokens[-1].append(fields[0])
        tags[-1].append(fields[-1])
    return Table(source, {"tokens": tokens, "tags": tags}, rows)


def _comment(fields: Sequence[str]) -> bool:
    """Is this line before a sentence, in words, one about it, such as `# text = ...`, and no word `#`?"""
    return fields[0] == "#" and len(fields) > 2 and re.fullmatch(r"O|[BIESLU]-.+", fields[-1]) is None


def _read_parquet(source: str, path: Path) -> Table:
    parquet = need("pyarrow.parquet", f"{source}: reading parquet")
    try:
        table = parquet.ParquetFile(path).read()
        _unique(source, table.column_names)
        columns = {name: table[name].to_pylist() for name in table.column_names}
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are these
        raise DataError(f"{source} is not a whole parquet file: {_first_line(error)}. Write it again.") from None
    return Table(source, columns, range(1, table.num_rows + 1))


def _read_hub(source: str, part: str) -> Table:
    """A split of a Hub data set, with names instead of class ids."""
    datasets = need("datasets", f"{source}: no such file; a data set of the Hugging Face Hub")
    match = HUB_ID.fullmatch(source)
    assert match is not None
    split = match["split"] or HUB_SPLITS.get(part, part)
    try:
        table = datasets.load_dataset(match["name"], match["config"], split=split)
    except Exception as error:  # the Hub's client has no common root for its errors
        raise DataError(
            f"{source}: no such file, and the Hugging Face Hub gave no split {split!r} of such a data set "
            f"({type(error).__name__}: {_first_line(error)}).{_near(Path(source))} "
            "Check the name and the network, or type org/name@config:split."
        ) from None
    columns = {name: _named(table.features[name], list(table[name])) for name in table.column_names}
    return Table(source, columns, range(1, table.num_rows + 1))


def _named(feature: Any, cells: list[Any]) -> list[Any]:
    """Names in place of class ids, also in lists of them; -1, which stands for no label, becomes None."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if not names:
        return cells

    def name(cell: Any) -> Any:
        if isinstance(cell, list):
            return [name(each) for each in cell]
        return None if cell is None or cell < 0 else names[cell]

    return [name(cell) for cell in cells]


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200].rstrip(".")
