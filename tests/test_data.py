from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smidgen.cells import in_order
from smidgen.data import Columns, Data, Split, load_data, read_split, read_texts
from smidgen.errors import DataError, InputError, MissingExtra
from smidgen.splits import example_keys, take_dev
from smidgen.tables import read_table
from smidgen.tasks.classify import Classify

SHARED = Path(__file__).parents[2] / "shared" / "data"
GOOD = "text,label\ngood,pos\nbad,neg\nfine,pos\nawful,neg\n"
PAIRS = "text,text_pair,label\na,b,same\nc,d,other\ne,f,same\ng,h,other\n"


def rows(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)


def load(folder: Path, train: str = "train.csv", **given: Any) -> Data:
    named = {k: str(folder / v) if k in ("dev", "test", "unlabeled") else v for k, v in given.items()}
    return load_data(str(folder / train), **named)


def parquet(columns: dict[str, list[Any]]) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    out = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), out)
    return out.getvalue()


# name of the case: (files, arguments of load, what the message must say)
BAD: dict[str, tuple[dict[str, str | bytes], dict[str, Any], tuple[str, ...]]] = {
    "missing file": (
        {"train.csv": GOOD},
        {"train": "trian.csv"},
        ("trian.csv: no such file", "Did you mean 'train.csv'?"),
    ),
    "missing folder": ({}, {"train": "no/train.csv"}, ("no such file", "There is no folder", "Check the path")),
    "folder": ({"train.csv": GOOD}, {"train": "."}, ("is a folder, wanted a file", "In it: train.csv")),
    "empty file": ({"train.csv": ""}, {}, ("train.csv is empty", "Give a file")),
    "blank file": ({"train.csv": "\n \n"}, {}, ("train.csv is empty",)),
    "empty jsonl": ({"train.jsonl": "\n"}, {"train": "train.jsonl"}, ("train.jsonl is empty",)),
    "header only": ({"train.csv": "text,label\n"}, {}, ("train.csv has a header and no rows", "Add")),
    "no text column": (
        {"train.csv": "id,body,label\n1,good,pos\n"},
        {},
        ("train.csv: no text column", "Its columns: id, body, label", "--text-column NAME"),
    ),
    "no label column": (
        {"train.csv": "text,stars\ngood,5\n"},
        {},
        ("train.csv: no label column", "Its columns: text, stars", "--label-column NAME"),
    ),
    "no header": (
        {"train.csv": "good film,pos\nbad,neg\n"},
        {},
        ("Its columns: good film, pos", "put a header over it"),
    ),
    "semicolons": ({"train.csv": "text;label\ngood;pos\n"}, {}, ("separated by ';', wanted ','. Save it with commas",)),
    "wrong name given": (
        {"train.csv": "id,review,stars\n1,good,5\n"},
        {"columns": Columns(text="reviews")},
        ("train.csv: no column 'reviews'", "Did you mean 'review'?", "id, review, stars", "--text-column NAME"),
    ),
    "wrong label name given": (
        {"train.csv": GOOD},
        {"columns": Columns(label="lable")},
        ("no column 'lable'", "Did you mean 'label'?", "--label-column NAME"),
    ),
    "two text columns": (
        {"train.csv": "sentence,review,label\na,b,pos\n"},
        {},
        ("train.csv: the text column may be any of sentence, review", "--text-column NAME"),
    ),
    "two pair columns": (
        {"train.csv": "premise,hypothesis,sentence2,label\na,b,c,pos\n"},
        {},
        ("the text_pair column may be any of hypothesis, sentence2", "--text-pair-column NAME"),
    ),
    "column twice": ({"train.csv": "text,label,text\na,pos,b\n"}, {}, ("column 'text' occurs 2 times", "Rename")),
    "key twice": (
        {"train.jsonl": '{"text": "a", "text": "b", "label": 1}\n'},
        {"train": "train.jsonl"},
        ("train.jsonl, row 1: the column 'text' occurs 2 times", "Rename"),
    ),
    "empty text": (
        {"train.csv": GOOD + '" ",pos\n'},
        {},
        ("train.csv, row 6: the column 'text' is empty", "remove the row"),
    ),
    "null text": (
        {"train.jsonl": rows({"text": "a", "label": "x"}) + '\n{"text": null, "label": "y"}\n'},
        {"train": "train.jsonl"},
        ("train.jsonl, row 3: the column 'text' has no value", "remove the row"),
    ),
    "NaN text": (
        {"train.jsonl": '{"text": NaN, "label": "y"}\n'},
        {"train": "train.jsonl"},
        ("train.jsonl, row 1: the column 'text' has no value (null or NaN)",),
    ),
    "number for a text": (
        {"train.jsonl": rows({"text": 5, "label": "y"})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 1: the column 'text' holds 5 (int), wanted a text", "--text-column NAME"),
    ),
    "half a surrogate pair": (
        {"train.jsonl": rows({"text": "\ud83d", "label": "y"})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 1: the column 'text' holds half of a surrogate pair", "remove the row"),
    ),
    "empty second text": (
        {"train.csv": PAIRS + "i,,same\n"},
        {},
        ("train.csv, row 6: the column 'text_pair' is empty",),
    ),
    "empty label": (
        {"train.csv": GOOD + "x,\n"},
        {},
        ("train.csv, row 6: the column 'label' has no label", "remove the row"),
    ),
    "NaN label": ({"train.csv": GOOD + "x,nan\n"}, {}, ("train.csv, row 6", "has no label, got 'nan'")),
    "null label": (
        {"train.jsonl": rows({"text": "a", "label": "x"}, {"text": "b", "label": None})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 2: the column 'label' has no label, got None", "remove the row"),
    ),
    "fraction for a label": (
        {"train.jsonl": rows({"text": "a", "label": 0.75})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 1", "holds 0.75, which is no class", "--label-column NAME"),
    ),
    "object for a label": (
        {"train.jsonl": rows({"text": "a", "label": {"x": 1}})},
        {"train": "train.jsonl"},
        ("row 1", "which is no class, wanted a word or a whole number"),
    ),
    "unknown label in test": (
        {"train.csv": GOOD, "test.csv": "text,label\nnew,pos\nmore,ngg\n"},
        {"test": "test.csv"},
        (
            "test.csv, row 3: unknown label 'ngg', wanted one of neg, pos.",
            "Did you mean 'neg'?",
            "Correct it",
            "those of train.",
        ),
    ),
    "number for a known word": (
        {"train.csv": GOOD, "test.csv": "text,label\nnew,1\n"},
        {"test": "test.csv"},
        ("test.csv, row 2: unknown label '1', wanted one of neg, pos",),
    ),
    "label that the model lacks": (
        {"train.csv": GOOD},
        {"labels": ["positive", "negative"]},
        ("train.csv, row 2: unknown label 'pos', wanted one of positive, negative", "Did you mean 'positive'?"),
    ),
    "id that the model lacks": (
        {"train.csv": "text,label\na,0\nb,2\n"},
        {"labels": ["no", "yes"]},
        ("train.csv, row 3: unknown label '2', wanted one of no, yes",),
    ),
    "one class": (
        {"train.csv": "text,label\na,pos\nb,pos\n"},
        {},
        ("train.csv: every row has the label 'pos'", "Add rows"),
    ),
    "no label at all": (
        {"train.jsonl": rows({"text": "a", "label": []})},
        {"train": "train.jsonl"},
        ("train.jsonl: no row has a label", "Add rows"),
    ),
    "lists and words": (
        {"train.jsonl": rows({"text": "a", "label": ["x"]}, {"text": "b", "label": "y"})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 2", "holds one label, wanted a list of labels as in row 1", "the same way"),
    ),
    "lists unasked for": (
        {"train.jsonl": rows({"text": "a", "label": ["x"]})},
        {"train": "train.jsonl", "multi_label": False},
        ("train.jsonl, row 1", "holds a list of labels, wanted one label a text", "--multi-label"),
    ),
    "too many cells": (
        {"train.csv": "text,label\ngood,pos\nbad, but not awful,neg\n"},
        {},
        ("train.csv, row 3: got 3 cells, wanted 2 (text, label)", "Put quotes around"),
    ),
    "too few cells": (
        {"train.tsv": 'text\tlabel\n"two\nlines"\tpos\nbad\n'},
        {"train": "train.tsv"},
        ("train.tsv, row 4: got 1 cells, wanted 2 (text, label)",),
    ),
    "unclosed quote": (
        {"train.csv": 'text,label\ngood,pos\n"bad,neg\nfine,pos\n'},
        {},
        ("train.csv, row 3: a quote opens and never closes", "Close it"),
    ),
    "loose quote": (
        {"train.csv": 'text,label\n"so "called" art",neg\n'},
        {},
        ("train.csv, row 2: broken quotes", "write a quote inside quotes twice"),
    ),
    "latin-1": (
        {"train.csv": "text,label\ngood,pos\ncafé,neg\n".encode("latin-1")},
        {},
        ("train.csv, row 3: byte 23 (0xe9) is not UTF-8, perhaps latin1", "iconv -f latin1 -t utf-8"),
    ),
    "windows-1252": (
        {"train.csv": "text,label\n“good”,pos\n".encode("cp1252")},
        {},
        ("train.csv, row 2: byte 11 (0x93)", "iconv -f windows-1252 -t utf-8"),
    ),
    "UTF-16": ({"train.csv": GOOD.encode("utf-16")}, {}, ("train.csv is UTF-16", "iconv -f utf-16 -t utf-8")),
    "UTF-16 unmarked": ({"train.csv": GOOD.encode("utf-16-le")}, {}, ("train.csv is UTF-16", "iconv")),
    "NUL byte": ({"train.csv": GOOD + "a\0b,pos\n"}, {}, ("train.csv, row 6: a NUL byte", "tr -d '\\000'")),
    "lines in a tsv's quotes": (
        {"train.tsv": 'text\tlabel\n"A film\tpos\nbad\tneg\ngood"\tpos\nfine\tpos\n'},
        {"train": "train.tsv"},
        ("train.tsv, row 2: a quote opens a text of several lines with tabs in it", "Take the quote out"),
    ),
    "broken gzip": (
        {"train.csv.gz": b"plain"},
        {"train": "train.csv.gz"},
        ("train.csv.gz cannot be read", "Check that"),
    ),
    "cut gzip": ({"train.csv.gz": gzip.compress(GOOD.encode())[:-9]}, {"train": "train.csv.gz"}, ("cannot be read",)),
    "broken JSON": (
        {"train.jsonl": '{"text": "a", "label": "x"}\n{"text": "b" "label": "y"}\n'},
        {"train": "train.jsonl"},
        ("train.jsonl, row 2, column 14: not JSON (Expecting ',' delimiter)", "wanted one object a line"),
    ),
    "deep JSON": ({"train.jsonl": "[" * 100_000}, {"train": "train.jsonl"}, ("train.jsonl, row 1", "not JSON")),
    "JSON array": (
        {"train.jsonl": '["a", "x"]\n'},
        {"train": "train.jsonl"},
        ('train.jsonl, row 1: got \'["a", "x"]\'', "wanted one object a line"),
    ),
    "differing keys": (
        {"train.jsonl": rows({"text": "a", "label": "x"}, {"text": "b", "labels": "y"})},
        {"train": "train.jsonl"},
        ("train.jsonl, row 2: got the keys text, labels; wanted text, label, as in row 1", "the same keys"),
    ),
    "xlsx": ({"train.xlsx": b"PK"}, {"train": "train.xlsx"}, ("cannot read .xlsx", "csv, tsv, jsonl", "Save it as")),
    "broken parquet": (
        {"train.parquet": b"PAR1"},
        {"train": "train.parquet"},
        ("train.parquet is not a whole parquet file",),
    ),
    "pairs in train only": (
        {"train.csv": PAIRS, "test.csv": "text,label\nnew,same\n"},
        {"test": "test.csv"},
        ("test.csv: no text_pair column, but", "train.csv has one", "--text-pair-column NAME"),
    ),
    "pairs in test only": (
        {"train.csv": "text,label\na,same\nb,other\n", "test.csv": PAIRS},
        {"test": "test.csv"},
        ("train.csv: no text_pair column, but", "test.csv has one"),
    ),
    "test is train": ({"train.csv": GOOD}, {"test": "./train.csv"}, ("test is the train file", "Give another file")),
    "dev is train": ({"train.csv": GOOD}, {"dev": "train.csv"}, ("dev is the train file", "leave --dev out")),
    "test is a copy of dev": (
        {"train.csv": GOOD, "dev.csv": "text,label\na,pos\nb,neg\n", "test.csv": "text,label\nb,neg\na,pos\n"},
        {"dev": "dev.csv", "test": "test.csv"},
        ("test.csv: test is the dev data", "Give another file, or leave --test out"),
    ),
    "too few for a dev set": (
        {"train.csv": "text,label\na,pos\nb,neg\n"},
        {},
        ("train.csv: 2 different texts are too few to take a dev set from", "--dev FILE"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_input_is_one_clear_error(case: str, tmp_path: Path) -> None:
    files, given, said = BAD[case]
    write(tmp_path, files)
    with pytest.raises(DataError) as caught:
        load(tmp_path, **given)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert str(tmp_path) in message and "\n" not in message
    for part in said:
        assert part in message


def test_an_unknown_metric_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": GOOD})
    with pytest.raises(InputError, match=r"unknown metric 'f2', wanted one of accuracy, f1\. Did you mean 'f1'\?"):
        load(tmp_path, metric="f2")


@pytest.mark.parametrize("suffix", ["csv", "TSV", "jsonl", "csv.gz", "jsonl.gz", "parquet"])
def test_every_format_says_the_same(suffix: str, tmp_path: Path) -> None:
    texts, labels = ['a "b", c', "ü\nzwei", "三\ttabs", "d"], ["x", "y", "x", "y"]
    kind = suffix.lower().split(".")[0]
    if kind == "parquet":
        data = parquet({"text": texts, "label": labels})
    elif kind == "jsonl":
        data = rows(*({"text": t, "label": y} for t, y in zip(texts, labels, strict=True))).encode()
    else:
        out = io.StringIO(newline="")
        csv.writer(out, delimiter="\t" if kind == "tsv" else ",").writerows(
            [("text", "label"), *zip(texts, labels, strict=True)]
        )
        data = out.getvalue().encode("utf-8-sig")  # the mark at the start is accepted
    write(tmp_path, {f"train.{suffix}": gzip.compress(data) if suffix.endswith("gz") else data})
    split = read_split(str(tmp_path / f"train.{suffix}"), "test", Classify(("x", "y")))
    assert split.texts == tuple(texts) and split.pairs is None and split.name == "test"
    assert split.labels is not None and split.labels.tolist() == [0, 1, 0, 1] and split.labels.dtype == np.int64


def test_a_cell_of_ten_million_characters_is_read(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    write(tmp_path, {"train.csv": "text\n" + "x" * 10_000_000 + "\n"})
    (text,), _ = read_texts(tmp_path / "train.csv")
    assert len(text) == 10_000_000
    assert csv.field_size_limit() == limit


def test_usual_columns_are_found_and_our_own_names_win(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": "Sentence1,Sentence2,Class\na,b,x\n", "b.csv": "text,review,label,target\na,b,x,z\n"})
    task = Classify(("x", "y"))
    first = read_split(str(tmp_path / "a.csv"), "test", task, Columns())
    assert (first.texts, first.pairs) == (("a",), ("b",))
    assert read_split(str(tmp_path / "b.csv"), "test", task).texts == ("a",)
    alone = read_split(str(tmp_path / "a.csv"), "test", task, Columns(text_pair=""))
    assert alone.pairs is None
    swapped = read_split(str(tmp_path / "a.csv"), "test", task, Columns(text="Sentence2", text_pair="Sentence1"))
    assert (swapped.texts, swapped.pairs) == (("b",), ("a",))


@pytest.mark.parametrize(
    "spelled", [["0", "1", "10", "2"], ["0.0", "1.0", "10.0", "2"], [0, 1, 10, 2], [0.0, 1.0, 10.0, 2]]
)
def test_whole_numbers_are_one_label_however_written(spelled: list[Any], tmp_path: Path) -> None:
    records = [{"text": f"t{i}", "label": label} for i, label in enumerate(spelled * 2)]
    write(tmp_path, {"train.jsonl": rows(*records), "test.csv": "text,label\nnew,10.0\nold,2\n"})
    data = load(tmp_path, "train.jsonl", test="test.csv")
    assert data.task.labels == ("0", "1", "2", "10")
    assert data.test is not None and data.test.labels is not None and data.test.labels.tolist() == [3, 2]


def test_words_with_zeros_in_front_stay_words() -> None:
    assert in_order(["10", "9", "-1"]) == ("-1", "9", "10")
    assert in_order(["10", "9", "007"]) == ("007", "10", "9")


def test_labels_of_a_model_match_by_name_or_else_by_id(tmp_path: Path) -> None:
    write(tmp_path, {"words.csv": GOOD, "ids.csv": "text,label\na,0\nb,1\nc,1\nd,0.0\n"})
    by_name = load(tmp_path, "words.csv", labels=["pos", "neg"])
    assert by_name.task.labels == ("pos", "neg")
    whole = read_split(str(tmp_path / "words.csv"), "train", by_name.task)
    assert whole.labels is not None and whole.labels.tolist() == [0, 1, 0, 1]
    by_id = read_split(str(tmp_path / "ids.csv"), "train", by_name.task)
    assert by_id.labels is not None and by_id.labels.tolist() == [0, 1, 1, 0]


def test_several_labels_from_lists_and_from_strings(tmp_path: Path) -> None:
    listed = [["b", "a"], [], ["c"], ["a"], ["a"], ["c"]]
    records = [{"text": f"t{i}", "labels": names} for i, names in enumerate(listed)]
    lines = [f'"t{i}","{"|".join(names)}"' for i, names in enumerate(listed)]
    commas = [line.replace("|", ", ") for line in lines]
    write(
        tmp_path,
        {
            "train.jsonl": rows(*records),
            "bars.csv": "\n".join(["text,label", *lines]),
            "commas.csv": "\n".join(["text,label", *commas]),
            "dev.jsonl": rows({"text": "new", "labels": ["c", "a"]}),
        },
    )
    data = load(tmp_path, "train.jsonl", dev="dev.jsonl")
    assert data.task == Classify(("a", "b", "c"), multi_label=True, metric="f1")
    wanted = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert data.train.labels is not None and data.train.labels.dtype == np.float32
    assert data.train.labels.tolist() == wanted
    assert data.task.counted(data.train.labels) == {"a": 3, "b": 1, "c": 2}
    for name in ("bars.csv", "commas.csv"):
        split = load(tmp_path, name, dev="dev.jsonl", multi_label=True).train
        assert split.labels is not None and split.labels.tolist() == wanted
    taken = load(tmp_path, "train.jsonl")
    assert len(taken.dev) >= 1 and not set(taken.dev.texts) & set(taken.train.texts)


def test_unlabeled_needs_no_label(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": GOOD, "more.txt": "one\r\ntwo\n"})
    data = load(tmp_path, unlabeled="more.txt")
    assert data.unlabeled is not None and data.unlabeled.texts == ("one", "two")
    assert data.unlabeled.labels is None


def test_warnings_count_overlap_conflict_and_rare_classes(tmp_path: Path) -> None:
    train = "text,label\n" + "".join(f"t{i},{'pos' if i % 2 else 'neg'}\n" for i in range(12)) + "t1,neg\nodd,rare\n"
    write(tmp_path, {"train.csv": train, "test.csv": "text,label\nt3,pos\nt4,neg\nnew,neg\n", "more.txt": "new\n"})
    told = load(tmp_path, test="test.csv", unlabeled="more.txt").warnings
    assert [warning.removeprefix(f"{tmp_path}/") for warning in told] == [
        "train.csv: 2 of 14 rows of train (14.3%) have other labels in other rows, as rows 3 and 14.",
        "train.csv: fewer than 5 examples of rare (1).",
        "test.csv: 2 of 3 rows of test (66.7%) are also in train, as row 2 of test and row 5 of train.",
        "test.csv: 1 of 3 rows of test (33.3%) is also in unlabeled, as row 4 of test and row 1 of unlabeled.",
        "train.csv: no example of rare in dev, whose score says nothing of it.",
        "test.csv: no example of rare in test, whose score says nothing of it.",
    ]


def test_fingerprints_feel_every_change(tmp_path: Path) -> None:
    split = Split("train", ("ab", "c"), ("d", "e"), np.array([0, 1]), "x")
    others = [
        Split("train", ("a", "bc"), ("d", "e"), np.array([0, 1]), "x"),
        Split("train", ("ab", "c"), None, np.array([0, 1]), "x"),
        Split("train", ("ab", "c"), ("d", "e"), np.array([1, 1]), "x"),
        Split("train", ("ab", "c"), ("d", "e"), None, "x"),
        Split("train", ("ab", "c", "d", "e"), None, np.array([0, 1]), "x"),
        split.take([1, 0]),
    ]
    assert len({each.fingerprint for each in [split, *others]}) == 7
    assert split.take([0, 1]).fingerprint == split.fingerprint
    assert Split("dev", split.texts, split.pairs, split.labels, "elsewhere").fingerprint == split.fingerprint
    write(tmp_path, {"train.csv": "text,label\n" + "".join(f"t{i},{i % 2}\n" for i in range(60))})
    assert load(tmp_path).fingerprint == load(tmp_path).fingerprint != load(tmp_path, seed=1).fingerprint


def test_keys_are_those_of_the_example_alone() -> None:
    keys = example_keys(("ab", "a", "ab"), ("c", "bc", "c"))
    assert keys.dtype == np.uint64 and keys[0] == keys[2] != keys[1]
    assert example_keys(("ab",), ("c",))[0] == keys[0]
    assert example_keys(("good",)).tolist() == [3680366741855348098]  # the same on every machine


def test_take_keeps_order_and_accepts_a_mask() -> None:
    split = Split("train", ("a", "b", "c"), None, np.array([0, 1, 0]), "x")
    assert split.take([2, 0]).texts == ("c", "a")
    masked = split.take(np.array([False, True, True]))
    assert masked.texts == ("b", "c") and masked.labels is not None and masked.labels.tolist() == [1, 0]
    assert len(split.take([])) == 0


def test_dev_keeps_shares_and_drops_copies() -> None:
    texts = tuple(f"t{i}" for i in range(1000)) * 2
    split = Split("train", texts, None, np.array([i % 10 == 0 for i in range(2000)], dtype=np.int64), "x")
    train, dev = take_dev(split, seed=3)
    assert dev.name == "dev" and dev.labels is not None and np.bincount(dev.labels).tolist() == [90, 10]
    assert len(train) == 2000 - 2 * 100
    assert Classify(("a", "b")).counted(dev.labels) == {"a": 90, "b": 10}


def test_dev_has_at_most_two_thousand_rows() -> None:
    labels = np.arange(40_000) % 7
    _, dev = take_dev(Split("train", tuple(map(str, range(40_000))), None, labels, "x"), seed=0)
    assert 1990 <= len(dev) <= 2000


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(0, 5))
def test_dev_is_disjoint_seeded_and_leaves_each_class(labels: list[int], seed: int) -> None:
    split = Split("train", tuple(f"text {i}" for i in range(len(labels))), None, np.array(labels), "x")
    train, dev = take_dev(split, seed)
    assert not set(train.texts) & set(dev.texts)
    assert sorted(train.texts + dev.texts) == sorted(split.texts)
    assert train.labels is not None and set(train.labels.tolist()) == set(labels)
    assert dev.labels is not None and set(dev.labels.tolist()) == {y for y in labels if labels.count(y) > 1}
    again = take_dev(split, seed)
    assert (again[0].fingerprint, again[1].fingerprint) == (train.fingerprint, dev.fingerprint)


HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from("\",\n\r\t;|\\'\u2028\u00a0\ufeff{}[]"), st.characters(exclude_categories=["Cs"])
    ),
    min_size=1,
).filter(lambda text: text.strip() and "\0" not in text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=6))
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_hostile_texts_come_back_as_they_were(kind: str, tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path / f"hostile.{kind}"
    if kind == "jsonl":
        records = (json.dumps({"text": a, "text_pair": b}, ensure_ascii=False) + "\n" for a, b in pairs)
        path.write_text("".join(records), encoding="utf-8", newline="")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="," if kind == "csv" else "\t").writerows([("text", "text_pair"), *pairs])
    if kind == "tsv" and any("\t" in text and "\n" in text for pair in pairs for text in pair):
        with pytest.raises(DataError, match="a quote opens a text of several lines with tabs in it"):
            read_texts(path)  # a quote that was forgotten would swallow rows
        return
    assert read_texts(path) == (tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


@given(
    st.lists(st.sampled_from(["b", "a", "10", "9", "ü"]), min_size=2).filter(lambda names: len(set(names)) > 1),
    st.randoms(),
)
def test_the_order_of_labels_does_not_feel_the_order_of_rows(names: list[str], random: Any) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert in_order(names) == in_order(shuffled)


def test_row_numbers_are_lines_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.csv": 'text\n"two\nlines"\n\nnext\n', "b.jsonl": '{"text": "a"}\n\n{"text": "b"}\n'})
    assert list(read_table(str(tmp_path / "a.csv")).rows) == [2, 5]
    assert list(read_table(str(tmp_path / "b.jsonl")).rows) == [1, 3]


def test_texts_from_a_stream_and_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_texts(io.StringIO("one\ntwo, three\n")) == (("one", "two, three"), None)
    stdin = io.TextIOWrapper(io.BytesIO("\ufeffüber\n".encode()), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert read_texts("-") == (("über",), None)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DataError, match="standard input is empty"):
        read_texts("-")
    with pytest.raises(DataError, match="row 2: the column 'text' is empty"):
        read_texts(io.StringIO("one\n\nthree\n"))


class FakeHub:
    """Stands for the package `datasets`: one data set, with ids for classes."""

    class Rows(dict[str, list[Any]]):
        column_names = ("sentence", "label")
        num_rows = 4
        features = {"sentence": SimpleNamespace(), "label": SimpleNamespace(names=["neg", "pos"])}

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str]] = []

    def load_dataset(self, name: str, config: str | None, split: str) -> Any:
        self.asked.append((name, config, split))
        if name != "org/films":
            raise ConnectionError("Couldn't reach the Hub\nand a long trace")
        return self.Rows(sentence=[f"{split} {i}" for i in range(4)], label=[0, 1, 1, -1 if split == "hidden" else 0])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    return fake


def test_a_hub_id_is_read_by_name_config_and_split(hub: FakeHub) -> None:
    data = load_data("org/films@en:train", dev="org/films", test="org/films")
    assert hub.asked == [("org/films", "en", "train"), ("org/films", None, "validation"), ("org/films", None, "test")]
    assert data.task.labels == ("neg", "pos") and data.test is not None and data.test.source == "org/films"
    with pytest.raises(DataError, match=r"org/films:hidden, row 4: the column 'label' has no label, got None"):
        load_data("org/films", test="org/films:hidden")


def test_a_hub_that_does_not_answer_is_a_data_error(hub: FakeHub, tmp_path: Path) -> None:
    write(tmp_path, {"film.csv": GOOD})
    with pytest.raises(DataError) as caught:
        load_data("films")
    assert str(caught.value) == (
        "films: no such file, and the Hugging Face Hub gave no split 'train' of such a data set "
        "(ConnectionError: Couldn't reach the Hub). Did you mean 'film.csv'? "
        "Check the name and the network, or type org/name@config:split."
    )


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path, {"train.parquet": b"PAR1"})
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    advice = r"needs {}\. Install it with: pip install 'smidgen\[train\]'"
    with pytest.raises(MissingExtra, match=advice.format("pyarrow")):
        load(tmp_path, "train.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtra, match=advice.format("datasets")):
        load_data("org/films")


def test_parquet_lists_are_several_labels(tmp_path: Path) -> None:
    write(tmp_path, {"train.parquet": parquet({"text": ["a", "b", "c"], "label": [[0, 2], [], [1, 0]]})})
    data = load(tmp_path, "train.parquet")
    assert data.task.multi_label and data.task.labels == ("0", "1", "2")


@pytest.mark.parametrize(
    ("folder", "labels", "paired"),
    [("sst2", ("negative", "positive"), False), ("mrpc", ("different", "paraphrase"), True)],
)
def test_shared_data_is_read_whole(folder: str, labels: tuple[str, ...], paired: bool) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no {folder} in shared/data beside the checkout")
    data = load_data(*(str(SHARED / folder / f"{name}.csv") for name in ("train", "dev", "test")))
    assert data.task.labels == labels and data.test is not None
    with (SHARED / folder / "test.csv").open(encoding="utf-8", newline="") as file:
        wanted = list(csv.DictReader(file))
    assert data.test.texts == tuple(row["text"] for row in wanted)
    assert (data.test.pairs is not None) == paired
    assert data.test.labels is not None
    assert [labels[i] for i in data.test.labels] == [row["label"] for row in wanted]
