"""What to keep for a price, against all choices that there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from smidgen.keeping import Each, Kept, again, choices
from smidgen.prices import Costs

LINEAR = Costs("MACs", 3.0, ((0, 0.0), (2, 10.0)), ((0, 0.0), (4, 8.0)))
STEEP = Costs("ms", 1.0, ((0, 1.0), (1, 6.0), (2, 7.0)), ((0, 1.0), (1, 5.0), (4, 6.5)))  # the first part costs most


def keep(heads: Each, units: Each, costs: Costs, limit: float, multiple: int = 1) -> Kept | None:
    """The choice that scores highest."""
    found = choices(heads, units, costs, limit, multiple)
    assert [each.score for each in found] == sorted(each.score for each in found)
    return found[-1] if found else None


def best(heads: Each, units: Each, costs: Costs, limit: float, units_stay: bool = False) -> float:
    """The largest sum of scores under the limit, by trying every choice that leaves a head somewhere and something in
    each block: a unit in each, or anything."""
    sizes = [(len(h), len(u)) for h, u in zip(heads, units, strict=True)]
    per_block = []
    for block, (of_heads, of_units) in enumerate(sizes):
        choices = {}
        for flags in itertools.product((False, True), repeat=of_heads + of_units):
            shape = sum(flags[:of_heads]), sum(flags[of_heads:])
            score = float(np.concatenate([heads[block], units[block]])[list(flags)].sum())
            if (shape[1] or (sum(shape) and not units_stay)) and score > choices.get(shape, -1.0):
                choices[shape] = score
        per_block.append(choices)
    found = -1.0
    for shapes in itertools.product(*per_block):
        if costs.predict(shapes) <= limit and any(count for count, _ in shapes):
            found = max(found, sum(choices[shape] for choices, shape in zip(per_block, shapes, strict=True)))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_under_even_prices_nothing_is_better(seed: int) -> None:
    draw = np.random.default_rng(seed)
    heads, units = ([draw.random(n) ** 3 for _ in range(2)] for n in (2, 4))
    for limit in (12.0, 15.0, 20.0, 31.0, 39.0):
        found = keep(heads, units, LINEAR, limit)
        assert found is not None and LINEAR.predict(found.shape) <= limit
        least, most = (best(heads, units, LINEAR, limit, units_stay) for units_stay in (True, False))
        assert least - 1e-9 <= found.score <= most + 1e-9
        kept = [each[flags].sum() for each, flags in zip([*heads, *units], [*found.heads, *found.units], strict=True)]
        assert found.score == pytest.approx(sum(kept))


def test_everything_is_kept_where_the_price_allows() -> None:
    ones = [np.ones(2)] * 3, [np.ones(4)] * 3
    found = keep(*ones, LINEAR, LINEAR.predict([(2, 4)] * 3))
    assert found is not None and found.shape == [(2, 4)] * 3


def test_a_sublayer_is_emptied_where_its_first_part_costs_most() -> None:
    """Heads of both blocks score alike; one block's attention for both of its heads is dearer than one in each."""
    heads, units = [np.array([5.0, 4.0]), np.array([4.5, 1.0])], [np.full(4, 2.0), np.full(4, 2.0)]
    limit = STEEP.predict([(2, 4), (0, 4)])
    found = keep(heads, units, STEEP, limit)
    assert found is not None and found.shape == [(2, 4), (0, 4)]
    assert found.score == pytest.approx(best(heads, units, STEEP, limit))
    first = choices(heads, units, STEEP, limit)[0]
    assert first.shape == [(1, 4), (0, 4)] and first.score < found.score, "the heads in the order of their scores"


def test_a_head_in_each_block_is_a_choice_where_it_fits() -> None:
    heads, units = [np.array([9.0, 8.0]), np.array([0.1, 0.0])], [np.ones(4), np.ones(4)]
    limit = LINEAR.predict([(2, 2), (0, 2)])
    found = [each.shape for each in choices(heads, units, LINEAR, limit)]
    assert found == [[(1, 3), (1, 1)], [(2, 3), (0, 1)]]
    small = choices(heads, units, LINEAR, LINEAR.predict([(1, 1), (0, 1)]))
    assert [each.shape for each in small] == [[(1, 1), (0, 1)]], "the price has no room for two"


def test_under_a_tighter_limit_each_block_keeps_its_head_while_there_is_room() -> None:
    heads, units = [np.array([9.0, 8.0]), np.array([7.5, 0.0])], [np.ones(4), np.ones(4)]
    (kept,) = choices(heads, units, LINEAR, LINEAR.predict([(2, 4), (1, 1)]))
    assert kept.shape == [(2, 4), (1, 1)], "best as it is, with a head in each block"
    for room, shape in (
        ([(1, 1), (1, 1)], [(1, 1), (1, 1)]),
        ([(1, 1), (0, 1)], [(1, 1), (0, 1)]),
    ):
        found = again(kept, heads, units, LINEAR, LINEAR.predict(room), 1)
        assert found is not None and found.shape == shape
    assert again(kept, heads, units, LINEAR, LINEAR.predict([(0, 1), (0, 1)]), 1) is None, "one head stays"


def test_as_many_blocks_as_there_is_room_for_keep_a_head() -> None:
    heads = [np.array([3.0, 2.9]), np.array([9.0, 8.5]), np.array([1.0, 0.1]), np.array([2.0, 1.9])]
    units = [np.full(4, 30.0)] * 4
    limit = LINEAR.predict([(1, 1), (1, 1), (0, 1), (0, 1)])
    assert [each.shape for each in choices(heads, units, LINEAR, limit)] == [
        [(1, 1), (1, 1), (0, 1), (0, 1)],
        [(0, 3), (1, 1), (0, 1), (0, 1)],
    ], "those whose heads are the best; or units, which score more, and one head"
    kept = choices(heads, [np.full(4, 0.1)] * 4, LINEAR, LINEAR.predict([(1, 1), (2, 1), (1, 1), (1, 1)]))[0]
    assert [count for count, _ in kept.shape] == [1, 2, 1, 1]
    tighter = again(kept, heads, units, LINEAR, limit, 1)
    assert tighter is not None and tighter.shape == [(1, 1), (1, 1), (0, 1), (0, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_a_head_always_stays(seed: int) -> None:
    draw = np.random.default_rng(seed)
    heads, units = [draw.random(2) * 0.01 for _ in range(3)], [draw.random(4) for _ in range(3)]
    for costs in (LINEAR, STEEP):
        floor = costs.floor([(2, 4)] * 3)
        for limit in (floor, floor * 1.3, floor * 1.6):
            found = choices(heads, units, costs, limit)
            assert found and all(sum(count for count, _ in each.shape) for each in found)
        assert choices(heads, units, costs, floor - 0.01) == []
    assert keep([np.zeros(0)] * 2, units[:2], LINEAR, 11.0) is not None, "but where there are none"


def test_an_attention_that_went_may_come_back_and_no_other_goes() -> None:
    heads, units = [np.array([9.0, 8.5]), np.array([4.0, 3.5]), np.array([1.0, 0.1])], [np.ones(4)] * 3
    kept = choices(heads, units, LINEAR, LINEAR.predict([(2, 1), (1, 1), (0, 1)]))[-1]
    assert [count for count, _ in kept.shape] == [2, 1, 0]
    tighter = again(kept, heads, units, LINEAR, LINEAR.predict([(1, 1), (1, 1), (0, 1)]), 1)
    assert tighter is not None and tighter.shape == [(1, 1), (1, 1), (0, 1)], "the second of the first would score more"
    wider = again(kept, heads, units, LINEAR, LINEAR.predict([(2, 4), (2, 4), (2, 4)]), 1)
    assert wider is not None and wider.shape == [(2, 4)] * 3


def test_a_feed_forward_is_emptied_too_and_then_a_head_stays() -> None:
    heads, units = [np.array([9.0, 8.0]), np.array([3.0, 2.0])], [np.full(4, 0.01), np.ones(4)]
    limit = STEEP.predict([(2, 0), (2, 4)])
    found = keep(heads, units, STEEP, limit)
    assert found is not None and found.shape == [(2, 0), (2, 4)]


def test_no_block_is_empty() -> None:
    heads, units = [np.array([9.0, 8.0]), np.zeros(2)], [np.ones(4), np.zeros(4)]
    found = keep(heads, units, LINEAR, 3 + 10 + 2 * 2)
    assert found is not None and found.shape == [(2, 1), (0, 1)]
    gone = keep([np.zeros(2), np.ones(2)], [np.zeros(0), np.ones(4)], LINEAR, 3 + 5 + 2)
    assert gone is not None and gone.shape == [(1, 0), (0, 1)], "a block that had no units keeps its best head"


def test_widths_are_multiples() -> None:
    draw = np.random.default_rng(0)
    heads, units = [draw.random(2) for _ in range(3)], [draw.random(10) for _ in range(3)]
    costs = Costs("MACs", 0.0, LINEAR.heads, ((0, 0.0), (10, 20.0)))
    for limit in (30.0, 50.0, 80.0):
        found = keep(heads, units, costs, limit, multiple=4)
        assert found is not None and {width for _, width in found.shape} <= {4, 8, 10}
        assert costs.predict(found.shape) <= limit
        for scores, flags in zip(units, found.units, strict=True):
            assert flags.all() or scores[flags].min() > scores[~flags].max()


def test_what_no_choice_can_reach_is_none() -> None:
    ones = [np.ones(2)] * 2, [np.ones(4)] * 2
    assert keep(*ones, LINEAR, LINEAR.floor([(2, 4)] * 2)) is not None
    assert keep(*ones, LINEAR, LINEAR.floor([(2, 4)] * 2) - 0.01) is None
    assert keep(*ones, LINEAR, LINEAR.floor([(2, 4)] * 2, 4) - 0.01, multiple=4) is None


def test_straight_lines_between_points() -> None:
    assert [STEEP.attention(at) for at in (0, 0.5, 1, 1.5, 2)] == [1.0, 3.5, 6.0, 6.5, 7.0]
    assert STEEP.feed_forward(2) == 5.5
    assert STEEP.predict([(1, 4), (0, 2)]) == 1 + 6 + 6.5 + 1 + 5.5
    assert Costs.from_data(STEEP.to_data()) == STEEP
