"""Which rows share a call of the graph: rows of like lengths, so that little is padded, and no more calls than pay."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

# Tokens that a call is as dear as. Measured on MiniLM-6 in int8: 32 rows of 24 tokens in calls of 16, 8, 4 and 2 rows
# take 0.99, 1.01, 1.07 and 1.19 times as long as in one.
CALL = 10


def batches(
    lengths: Sequence[int] | np.ndarray, batch_tokens: int, most: int | None = None, call: int = 0
) -> Iterator[np.ndarray]:
    """Rows by length, in batches of at most `most` rows and `batch_tokens` padded tokens (a longer row is alone).

    call: how many tokens a call is as dear as; where it costs anything, padding and calls together cost the least that
        they can. 0 = batches as full as they can be, which is quicker to work out.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = [int(lengths[row]) for row in order]
    start = 0
    for end in _cheapest(ordered, batch_tokens, most, call) if call else _fullest(ordered, batch_tokens, most):
        yield order[start:end]
        start = end


def shares(lengths: np.ndarray, batch_tokens: int, calls: int, call: int = 0) -> list[np.ndarray]:
    """As `batches`, and of few rows one batch for each of the calls that may run at once, of about as many tokens."""
    tokens = min(batch_tokens, -(-int(lengths.sum()) // calls))
    if call:
        return list(batches(lengths, tokens, call=call))
    while len(cut := list(batches(lengths, tokens))) > calls and tokens < batch_tokens:
        tokens = min(batch_tokens, tokens + tokens // 8 + 1)
    return cut


def _fullest(lengths: Sequence[int], tokens: int, most: int | None) -> Iterator[int]:
    """Where batches of rising lengths end."""
    start = 0
    for end in range(1, len(lengths) + 1):
        full = end == len(lengths) or (end + 1 - start) * lengths[end] > tokens
        if full or end - start == most:
            yield end
            start = end


def _cheapest(lengths: Sequence[int], tokens: int, most: int | None, call: int) -> list[int]:
    """The same, for the least sum over batches of rows * longest + call: the best way to each end from the best ways
    to those before it."""
    cost, begins = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        longest, least, begin = lengths[end - 1], math.inf, end - 1
        for start in range(end - 1, -1, -1):
            rows = end - start
            if rows > 1 and (rows * longest > tokens or (most is not None and rows > most)):
                break
            found = cost[start] + rows * longest + call
            if found < least:
                least, begin = found, start
        cost.append(least)
        begins.append(begin)
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = begins[end]
    return ends[::-1]
