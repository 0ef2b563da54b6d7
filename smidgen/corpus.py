"""Growing a corpus: changed copies of its rows, none twice, none that dev or test has.

A data step starts from a Corpus and leaves `texts.jsonl`: {"text": ..., "text_pair": ...} a line, without labels. A row
stays a row: what is grown of a pair stands beside its own other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smidgen.errors import NoEffect
from smidgen.splits import Split, example_keys
from smidgen.watch import Silent, Watch

FILE = "texts.jsonl"
SIDES = ("any", "first", "second", "both")

Row = tuple[str, str | None]
Copy = Callable[[np.random.Generator], str]  # makes a changed copy of one text
Change = Callable[[str], Copy]  # looks at a text, once for all its copies


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a data step grows."""

    split: Split  # its labels are not looked at
    keep_out: tuple[Split, ...]  # none of their rows may be made
    work: Path  # for what a stopped run need not do again; gone when the step is done
    watch: Watch = field(default_factory=Silent)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text once, first and second ones, in their order."""
        return tuple(dict.fromkeys(filter(None, (*self.split.texts, *(self.split.pairs or ())))))


def grown(corpus: Corpus, change: Change, copies: int, sides: str, seed: int) -> Iterator[Row]:
    """Changed copies of every row, in the rows' order.

    What is drawn for a row follows from the seed and the row alone. Letters and spaces apart, no row comes twice, and
    none is one of the corpus or of what is kept out.

    Args:
        change: makes changed copies of one text.
        copies: draws a row; those that are there already are dropped, so fewer may come of it.
        sides: of a pair: first | second | both | any, which draws one of the three for each copy.
    """
    pairs = corpus.split.pairs
    seen = {int(key) for part in (corpus.split, *corpus.keep_out) for key in _plain_keys(part.texts, part.pairs)}
    with corpus.watch.bar("growing", len(corpus.split)) as bar:
        for i, (text, key) in enumerate(zip(corpus.split.texts, corpus.split.keys.tolist(), strict=True)):
            rng = np.random.default_rng([seed, key])
            pair = pairs[i] if pairs is not None and pairs[i] else None
            first, second = change(text), None if pair is None else change(pair)
            for _ in range(copies):
                side = "first" if second is None else sides if sides != "any" else SIDES[1 + int(rng.integers(3))]
                new = first(rng) if side != "second" else text
                other = pair if second is None or side == "first" else second(rng)
                made = int(_plain_keys([new], None if other is None else [other])[0])
                if made not in seen:
                    seen.add(made)
                    yield new, other
            bar.to(i + 1)


def grow(corpus: Corpus, change: Change, copies: int, sides: str, seed: int, target: Path, who: str) -> dict[str, int]:
    """Write what `grown` gives to `target/texts.jsonl`; gives how many rows went in and came out.

    Raises:
        NoEffect: not one new row came of it; the message starts with `who`.
    """
    count = 0
    with (target / FILE).open("w", encoding="utf-8") as file:
        for text, pair in grown(corpus, change, copies, sides, seed):
            row = {"text": text} if pair is None else {"text": text, "text_pair": pair}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    if not count:
        raise NoEffect(f"{who}: no copy differs from what is there already. Raise its shares, or give more texts.")
    return {"rows": len(corpus.split), "grown": count}


def read_grown(folder: Path, name: str) -> Split:
    """What a data step left behind, as a split without labels."""
    lines = (folder / FILE).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    paired = any("text_pair" in row for row in rows)
    pairs = tuple(row.get("text_pair", "") for row in rows) if paired else None
    return Split(name, tuple(row["text"] for row in rows), pairs, None, str(folder / FILE))


def _plain_keys(texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
    """Keys that are the same for rows that differ only in capitals and spaces."""
    return example_keys([_plain(text) for text in texts], None if pairs is None else [_plain(text) for text in pairs])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
