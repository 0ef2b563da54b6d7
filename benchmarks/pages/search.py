"""What search.json says: cascades, a stranger's clock, three budgets, and the search against an exhaustive run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from pages._words import foot, holds, interval, mean, points, shared, times


def cascade(found: dict[str, Any]) -> str:
    wanted = found["wanted"]
    claim = f"Claim: a cascade keeps {wanted['kept']:.0%} of the teacher's accuracy at {wanted['speedup']:.0f} times its speed or more."
    if found["claimed"] is None:
        claim += " None is so fast by dev."
    else:
        one = found["runs"][found["claimed"]]
        claim += (
            f" Measured, of the one that by dev keeps the most of the large model under smidgen's own guard and is so fast (**bold**): "
            f"**{one['kept']['value']:.1%}** kept ({one['kept']['low']:.1%} to {one['kept']['high']:.1%}), "
            f"{holds(one['kept']['value'] >= wanted['kept'])}; **{one['speedup']['value']:.1f}x**, "
            f"{holds(one['speedup']['value'] >= wanted['speedup'])}."
        )
    alone = [
        f"| {name} alone | | | | {interval(one['quality'])} | {shared(one['kept'])} | {one['mean_ms']:.2f} | {times(one['speedup'])} | |"
        for name, one in found["alone"].items()
    ]
    rows = []
    for number, r in enumerate(found["runs"]):
        mark = "**" if number == found["claimed"] else ""
        rows.append(
            f"| {mark}{r['small']} first{mark} | {_asked(r)} | {r['dev']['passed']:.0%} | {r['passed']:.0%} | {interval(r['quality'])} | "
            f"{shared(r['kept'])} | {r['mean_ms']:.2f} | {times(r['speedup'])} | {r['size_mb']:.1f} |"
        )
    rows += [f"| {r['small']} first | {_asked(r)} | none: {r['why']} | | | | | | |" for r in found["refused"]]
    return "\n".join(
        [
            "## A small model that asks a large one",
            "",
            f"{claim} {_plain(found['runs'])} {found['what']}. Thresholds are set on dev ({found['dev']} rows); n = {found['n']}.",
            "",
            "| | asked for on dev | goes on, dev | goes on, test | accuracy | of the teacher's | ms, mean | times as fast | MB |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
            *alone,
            *rows,
            "",
            foot(found),
        ]
    )


def _plain(runs: list[dict[str, Any]]) -> str:
    """What the first way of asking, which is the command's own, comes to."""
    first = runs[0]
    kept = [run["kept"]["value"] for run in runs if _asked(run) == _asked(first)]
    return (
        f"Asked for no more than {first['share']:.0%} of the large model, as the command does by itself, the pairs keep {min(kept):.1%} to "
        f"{max(kept):.1%} of the teacher's; that more has to be asked for where int8 costs something was seen on test, in a first run."
    )


def _asked(run: dict[str, Any]) -> str:
    return f"{run['share']:.1%} of {run['of']}, in {run['guard']:.0%} of draws"


NEAR = 0.1  # of a p95, that another may be apart


def outside(found: dict[str, Any]) -> str:
    runs = found["runs"]
    rows = [
        f"| {r['folder']} | {r['ms']['smidgen']['p50']:.3f} | {r['ms']['outside']['p50']:.3f} | {times(r['over']['p50'])} | "
        f"{r['ms']['smidgen']['p95']:.3f} | {r['ms']['outside']['p95']:.3f} | {times(r['over']['p95'])} | {r['tokenizer_ms']['smidgen']:.3f} | "
        f"{r['tokenizer_ms']['outside']:.3f} | {r['bytes']['smidgen']:,} | {r['bytes']['outside']:,} | {r['different']} |"
        for r in runs
    ]
    bytes_ = max(abs(r["bytes"]["smidgen"] - r["bytes"]["outside"]) for r in runs)
    different = sum(r["different"] for r in runs)
    students = [r["folder"] for r in runs if not r["folder"].endswith("winner")]
    whose = "A student's" if len(students) == len(runs) else "A winner's"
    told = [f"{name} is a student of `distil.py`, no winner of a search." for name in students]
    return "\n".join(
        [
            f"## {whose} numbers, measured by a stranger",
            "",
            f"Claim: {found['wanted']}. Measured: {_tails(runs)}; **{bytes_}** bytes apart at most, {holds(bytes_ == 0)}; **{different}** "
            f"labels differ, {holds(different == 0)}. {' '.join([*told, found['what']])}; {found['calls']:,} calls each by turns, n = {found['n']}.",
            "",
            "| folder | p50 ms, smidgen | outside | outside / smidgen | p95 ms, smidgen | outside | outside / smidgen | "
            "the tokenizer's p50 ms, smidgen | outside | bytes, smidgen | outside | labels that differ |",
            "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


def _tails(runs: list[dict[str, Any]]) -> str:
    """Of how many folders p95 is the same, and how far it is apart; and what tokenizers take, of which the stranger has another."""
    apart = {r["folder"]: abs(r["over"]["p95"]["value"] - 1) for r in runs}
    far = [f"{name} {each:.1%}" for name, each in apart.items() if each > NEAR]
    near = [each for each in apart.values() if each <= NEAR]
    words = f"p95 **{max(near, default=0):.1%}** apart at most for {len(near)} of {len(runs)}"
    words += f" ({', '.join(far)}), does not hold" if far else ", holds"
    ours, theirs = ([r["tokenizer_ms"][who] for r in runs] for who in ("smidgen", "outside"))
    return (
        f"{words}; the tokenizer alone takes smidgen {min(ours):.3f} to {max(ours):.3f} ms a text and the stranger, who has the library's, "
        f"{min(theirs):.3f} to {max(theirs):.3f}, as much as a small network"
    )


def budgets(found: dict[str, Any], title: str) -> str:
    runs = [run for run in found["runs"] if "winner" in run]
    verdicts = Counter(one["verdict"] for run in runs for one in run["against"])
    told = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    teacher = found["teacher"]
    rows = [
        f"| {run['budget']}, {run['asked']}x | {run['winner']} | {interval(run['quality'])} | {shared(run['kept'])} | {run['ms']:.3f} | "
        f"{times(run['speedup'])} | {run['size_mb']:.1f} | {run['seconds']:.0f} |"
        for run in runs
    ]
    missed = [f"{run['budget']}, {run['asked']}x: {run['reason']}" for run in found["runs"] if "winner" not in run]
    beaten = "; ".join(f"{hand['name']} by {_winners_over(hand['name'], runs)}" for hand in found["hands"])
    hands = [
        f"| by hand | {hand['name']} ({hand['chosen']}) | {interval(hand['quality'])} | {shared(hand['kept'])} | {hand['ms']:.3f} | "
        f"{times(hand['speedup'])} | | {hand['seconds']:.0f} |"
        for hand in found["hands"]
    ]
    against = [
        f"| {run['budget']}, {run['asked']}x | {one['hand']} | {points(one['points'])} | {times(one['times'])} | {one['verdict']} |"
        for run in runs
        for one in run["against"]
    ]
    return "\n".join(
        [
            f"## {title}",
            "",
            f"Claim: each winner is {found['wanted']}, against each model by hand. Measured, by intervals: **{told}**, "
            f"{holds(set(verdicts) == {'won'} and not missed)}. Of what is made by hand, beaten so: {beaten}. {_within(found)} {found['what']} ({interval(teacher['quality'])}, "
            f"{teacher['ms']:.1f} ms in torch float32); a budget is a limit on the median, by which the teacher is so many times slower; "
            f"{found['limit']} for each search; {found['train']:,} rows with labels, {found['unlabeled']:,} without; n = {found['n']}. "
            "All timed in one run, text in to label out, batch 1. Seconds of a search count what it made itself; of a model by hand, "
            "its training, choice on dev and export.",
            "",
            "| budget | model | accuracy | of the teacher's | ms | times as fast as the teacher | MB | seconds to make |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
            *rows,
            *hands,
            "",
            *([f"Not met: {'; '.join(missed)}", ""] if missed else []),
            "| winner of | against | points ahead | times as fast | |",
            "|---|---|--:|--:|---|",
            *against,
            "",
            foot(found),
        ]
    )


def _within(found: dict[str, Any]) -> str:
    """What a person who has to keep the budget too could have chosen of the models by hand, and how far the winner is ahead of the best."""
    told = []
    for run in (run for run in found["runs"] if "winner" in run):
        keeping = [hand for hand in found["hands"] if hand["speedup"]["value"] >= run["asked"]]
        if not keeping:
            told.append(f"{run['budget']}: none does")
            continue
        best = max(keeping, key=lambda hand: hand["quality"]["value"])["name"]
        one = next(one for one in run["against"] if one["hand"] == best)
        told.append(f"{run['budget']}: {points(one['points'])} points ahead of {best}")
    return f"Against the best by hand that keeps the budget as well, {'; '.join(told)}."


def _winners_over(hand: str, runs: Sequence[dict[str, Any]]) -> str:
    """The budgets whose winners are better at no lower speed, or faster at no lower quality."""
    won = [run["budget"] for run in runs for one in run["against"] if one["hand"] == hand and one["verdict"] == "won"]
    return f"the winner of {' and of '.join(won)}" if won else "none"


def halving(found: dict[str, Any], title: str) -> str:
    wanted, runs = found["wanted"], found["runs"]
    races = [race for run in runs for race in run["races"]]
    default = max(race["finalists"] for race in races)
    own = [race for race in races if race["finalists"] == default]
    behind, share = (
        sum(values) / len(own) for values in ([r["behind"]["value"] for r in own], [r["of_the_time"] for r in own])
    )
    rows = [
        f"| {run['seed']} | {race['finalists']} | {race['trainings']} | {race['seconds']:.0f} | {race['of_the_time']:.1%} | {race['best']} | "
        f"{race['place']} of {len(run['candidates'])} | {100 * race['behind_on_dev']:.1f} | {points(race['behind'])} |"
        for run in runs
        for race in run["races"]
    ]
    whole = "; ".join(
        f"seed {run['seed']}: {run['whole']['best']}, {run['whole']['test']:.3f} on test, {run['whole']['seconds']:.0f} s"
        for run in runs
    )
    each = [one["seconds"] for run in runs for one in run["candidates"].values()]
    return "\n".join(
        [
            f"## {title}",
            "",
            f"Claim: the search comes within {100 * wanted['behind']:.1f} points of the best of an exhaustive run, in a fifth of its training "
            f"time. Measured with {default} finalists, the usual number, mean of {len(own)} seed(s): **{100 * behind:.1f}** points behind on test, "
            f"{holds(behind <= wanted['behind'])}; **{share:.0%}** of the time, {holds(share <= wanted['of_the_time'])}. {len(runs[0]['candidates'])} candidates: {found['what']}; "
            f"a whole training takes {mean(each, '{:.0f}')} s in the mean. Best of the exhaustive run by dev: {whole}.",
            "",
            "| seed | finalists | trainings | seconds | of the exhaustive run's | found | place on dev | points behind on dev | points behind on test |",
            "|--:|--:|--:|--:|--:|---|--:|--:|--:|",
            *rows,
            "",
            foot(found),
        ]
    )


SECTIONS = {
    "cascade": cascade,
    "outside": outside,
    "budgets, sst2": partial(budgets, title="Three budgets against a person's own work: SST-2"),
    "budgets, tweets": partial(budgets, title="Three budgets against a person's own work: tweets"),
    "halving": partial(halving, title="Successive halving against every candidate in full"),
    "halving, five rates": partial(halving, title="Successive halving over a larger space"),
}
