"""The report page, its Markdown and the model card, from one realistic report.json."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt
from reports import SAMPLE, lost, missed, portrayed, sample, untested

from smidgen import report
from smidgen.errors import ArtefactError, MissingExtra
from smidgen.findings import constraints
from smidgen.measure import entries
from smidgen.words import md

pytest.importorskip("jinja2")
yaml = pytest.importorskip("yaml")

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>|`{{7*7}}`\"'&amp;"


@pytest.fixture(scope="module")
def page() -> str:
    return report.html(SAMPLE)


class Tags(HTMLParser):
    """Start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.raw = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.raw = tag if tag in ("script", "style") else self.raw

    def handle_endtag(self, tag: str) -> None:
        self.raw = "" if tag == self.raw else self.raw

    def handle_data(self, data: str) -> None:
        if not self.raw:
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{path}[{index}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def shown(text: str) -> list[float]:
    return [float(token.replace(",", "")) for token in re.findall(r"\d[\d,]*(?:\.\d+)?", text)]


def missing(tokens: list[float], measured: Iterator[tuple[str, float]]) -> list[str]:
    """The numbers that no token shows, as they are or in percent, within the rounding of the page."""

    def near(value: float) -> bool:
        return any(
            math.isclose(token, value, rel_tol=0.005) or math.isclose(token, 100 * value, abs_tol=0.051)
            for token in tokens
        )

    return [path for path, value in measured if not near(value)]


def said_numbers() -> Iterator[tuple[str, float]]:
    for group in ("teacher", "winner", "candidates", "baselines"):
        for entry in SAMPLE[group] if isinstance(SAMPLE[group], list) else [SAMPLE[group]]:
            yield from numbers(entry["numbers"], f"{group}.{entry['name']}")
    for group in ("budget", "data"):
        yield from numbers(SAMPLE[group], group)
    yield from numbers([SAMPLE["environment"]["cores"], SAMPLE["environment"]["memory_mb"] / 1000], "environment")
    yield from numbers(SAMPLE["winner"]["lineage"], "lineage")


# ---- the page ---------------------------------------------------------------------------------------------------


def test_every_number_is_on_the_page(page: str) -> None:
    text = " ".join(Tags(page).text)
    assert missing(shown(text), said_numbers()) == []
    assert missing(shown(text), numbers(SAMPLE["timing"])) == []
    assert "87.3\u00a0%" in text and "86.1–88.5\u00a0%" in text and "5.22–5.55×" in text and "16,997,378" in text


def test_every_number_is_in_the_markdown() -> None:
    assert missing(shown(report.markdown(SAMPLE)), said_numbers()) == []


def test_names_reasons_warnings_and_fingerprints_are_told(page: str) -> None:
    found = sample()
    told = " ".join(Tags(page).text)
    for entry in (found["teacher"], *found["candidates"], *found["baselines"]):
        assert entry["name"] in told and entry["reason"] in told
    assert found["data"]["warnings"][0] in told and found["data"]["test"]["fingerprint"][:12] in told
    assert found["command"] in told and "smidgen verify" in told and found["fingerprint"] in told
    assert "prune.layers(keep=3, rule=auto)" in told and "epochs=6, learning_rate=0.0002" in told
    assert "1 of 27 stages were already on disk" in told and found["model"]["reference"] in told


def test_the_page_loads_nothing(page: str) -> None:
    for tag, attributes in Tags(page).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "srcset", "poster", "data", "xlink:href", "action"):
            assert name not in attributes, (tag, attributes)
        assert not (attributes.get("href") or "").startswith(("http", "//")), attributes
    assert "@import" not in page.split("</style>")[0] and "url(" not in page.split("</style>")[0]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy and "default-src 'none'" in policy[1] and policy[1].count("sha256-") == 1
    assert "script-src" not in policy[1] and "unsafe" not in policy[1]


def test_the_page_runs_nothing_and_its_style_is_the_one_that_it_allows(page: str) -> None:
    style = page.split("<style>")[1].split("</style>")[0]
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in page
    tags = Tags(page)
    assert tags.count("script") == 0 and len(page) < 200_000
    assert not [attributes for _, attributes in tags.found if "style" in attributes], "the policy forbids them"


def test_the_page_can_be_read_without_eyes(page: str) -> None:
    tags = Tags(page)
    assert tags.count("h1") == 1 and tags.count("main") == 1
    assert tags.count("caption") == tags.count("table") >= 4
    assert tags.count("nav") == tags.count("header") == tags.count("footer") == 1
    named = {attributes["id"] for _, attributes in tags.found if "id" in attributes}
    for tag, attributes in tags.found:
        for key in ("aria-labelledby", "aria-describedby"):
            assert key not in attributes or attributes[key] in named, (tag, attributes)
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in named, attributes
    assert len(named) == sum("id" in attributes for _, attributes in tags.found), "an id is given twice"
    picture = next(a for tag, a in tags.found if tag == "svg" and a.get("class") == "picture")
    assert picture["role"] == "group" and picture["aria-describedby"] == "picture-text"
    assert all("scope" in attributes for tag, attributes in tags.found if tag == "th")


def test_the_picture_is_first_and_every_mark_leads_to_its_entry(page: str) -> None:
    assert page.index('id="h-picture"') < page.index('id="h-budget"') < page.index('id="h-winner"')
    tags = Tags(page)
    points = [a for tag, a in tags.found if tag == "a" and a.get("class") == "point"]
    assert len(points) == 7
    cards = page.split("<article ")[1:]
    for point in points:
        (card,) = [card for card in cards if f'id="{(point["href"] or "")[1:]}"' in card]
        (name,) = re.findall(r"<bdi>(.*?)</bdi>", card.split("</h3>")[0])
        assert name in (point["aria-label"] or "")
    winner = " ".join(Tags(f"<article {cards[0]}").text)
    assert "3 blocks, int8" in winner and "prune.layers(keep=3, rule=auto)" in winner and "Cost" in winner
    assert len(cards) == len(SAMPLE["candidates"]) + len(SAMPLE["baselines"]) + 1, "the winner once, and the teacher"


# ---- how the winner answers, beside the teacher -----------------------------------------------------------------


def test_mistakes_calibration_and_differences_are_told_with_every_number() -> None:
    found = portrayed()
    tags = Tags(report.html(found))
    told = " ".join(tags.text)
    portrait = {key: value for key, value in found["portrait"].items() if key not in ("decided", "differ")}
    for example in found["portrait"]["differ"]:
        assert example["text"] in told
    portrait["differ"] = [{key: e[key] for key in ("row", "winner", "teacher")} for e in found["portrait"]["differ"]]
    assert missing(shown(told), numbers(portrait)) == []
    assert "McNemar" in told and "Where winner and teacher differ most" in told
    assert "5 candidates were compared on dev, 3 of them to the end. In 74.2\u00a0% of the resamples of dev" in told
    assert "fastest" in told and "over the budget: quality" in told and "the winner itself" in told
    text = report.markdown(found)
    assert "Expected calibration error: winner" in text and "5 candidates were compared" in text
    assert "## The best along each axis" in text and "| fastest | 2 blocks, int8 |" in text
    assert "| Expected calibration error |" in report.card(found)


def test_what_is_not_in_an_older_report_is_left_out(page: str) -> None:
    for text in (" ".join(Tags(page).text), report.markdown(SAMPLE)):
        assert "alibration" not in text and "differ most" not in text and "along each axis" not in text
        assert "compared on dev" not in text


def test_a_thousand_labels_are_no_table_of_a_thousand_columns() -> None:
    long = "a label that never ends " * 40
    found = portrayed(labels=(long, *(f"label {i}" for i in range(999))), rows=400)
    found["data"]["train"]["classes"] = {f"label {i}": i + 1 for i in range(1000)}
    text = report.html(found)
    tags = Tags(text)
    told = " ".join(tags.text)
    assert "12 of 1,000 labels are shown" in told and "any other" in told and "and 988 more" in told
    assert len(text) < 250_000 and tags.count("td") < 1000
    assert len(report.markdown(found)) < 20_000 and "and 960 more" in report.card(found)
    (table,) = found["portrait"]["confusion"]
    assert sum(map(sum, table["winner"])) == 400, "every text is counted"


def poisoned(text: str) -> dict[str, Any]:
    """A report in which every text is this one."""

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [poison(inner) for inner in value]
        return text if isinstance(value, str) else value

    evil: dict[str, Any] = poison(portrayed()) | {"verdict": "met"}
    evil["data"]["train"]["classes"] = {text: 3}
    evil["winner"]["curves"] = {text: [{"step": 1, "loss": 2.0, "terms": {text: 1.0}, "dev": 0.5}]}
    evil["environment"]["versions"] = {text: text}
    evil["budget"]["latency"]["percentile"] = "p95"
    return evil


@pytest.mark.parametrize("bad", ["\u202e", "\u2066", "\x00", "\x9b", "\ud800"])
def test_characters_that_cannot_be_seen_are_shown(bad: str) -> None:
    """Text that turns its direction, that is a control character, or half of one."""
    evil = poisoned(f"so {bad}dog")
    for text in (report.html(evil), report.markdown(evil), report.picture(evil)):
        assert bad not in text and f"so \u27e8U+{ord(bad):04X}\u27e9dog" in text
        text.encode()
    ElementTree.fromstring(report.picture(evil))


def test_hostile_texts_stay_texts() -> None:
    evil = poisoned(EVIL)
    tags = Tags(report.html(evil))
    assert tags.count("script") == 0 and tags.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert any("<script>alert(1)</script>" in text for text in tags.text)
    for text in (report.markdown(evil), report.card(evil).split("---\n", 2)[2]):
        rendered = Tags(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
        assert rendered.count("script") == 0 and rendered.count("img") == 0
        assert any("<script>alert(1)</script>" in found for found in rendered.text)
    svg = ElementTree.fromstring(report.picture(evil))
    assert not [node for node in svg.iter() if node.tag.endswith(("script", "img", "foreignObject"))]


ACTING = (
    *("@torvalds", "a@b.example", "https://evil.example/x", "ftp://evil.example", "www.evil.example"),
    *(
        "WWW.evil.example",
        "GH-12",
        "gh-12",
        "#12",
        "owner/name#12",
        "_x_ __y__",
        "snake_case_name",
        ":tada:",
        r"\@me \_x_ \#1",
    ),
)


@pytest.mark.parametrize("text", ACTING)
def test_labels_do_not_act_in_a_pull_request(text: str) -> None:
    """GitHub looks for mentions and references in each text of the rendered page that is not code."""
    rendered = Tags(MarkdownIt("commonmark", {"html": True}).render(md(text)))
    assert "".join(rendered.text).strip() == text and [name for name, _ in rendered.found] == ["p"]
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(report.markdown(poisoned(text)))
    page = Tags(re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL))
    assert page.count("em") == page.count("a") == 0 and text in "".join(page.text)
    for one in (*rendered.text, *page.text):
        assert not re.search(r"@\w|://|www\.|GH-\d|#\d|:\w+:", one, re.IGNORECASE)


def test_hostile_names_do_not_break_a_markdown_table() -> None:
    found = sample()
    plain_rows = [line.count("|") for line in report.markdown(found).splitlines() if line.startswith("|")]
    found["candidates"][1]["name"] = "a | b\n| c |\r\n# d"
    rows = [line for line in report.markdown(found).splitlines() if line.startswith("|")]
    assert [re.sub(r"\\\|", "", line).count("|") for line in rows] == plain_rows


def test_the_sample_has_the_entries_that_are_written_today() -> None:
    own = entries.entry("a name", "trained")
    for found in (SAMPLE["teacher"], SAMPLE["winner"], *SAMPLE["candidates"], *SAMPLE["baselines"]):
        assert set(found) == set(own) and set(found["numbers"]) == set(own["numbers"])
    fresh = sample() | {
        "teacher": entries.entry("teacher", "teacher"),
        "candidates": [own],
        "baselines": [],
        "winner": None,
    }
    report.check(fresh | {"verdict": "not_met"})


# ---- what is not there ------------------------------------------------------------------------------------------


def test_without_a_winner() -> None:
    found = lost()
    for text in (" ".join(Tags(report.html(found)).text), report.markdown(found)):
        assert "No candidate meets the whole budget" in text and "Budget not met" in text
        assert found["reason"] in text and "Met by" in text
    with pytest.raises(ArtefactError, match=r"winner is null, so there is no model .* Loosen the budget"):
        report.card(found)


@pytest.mark.parametrize("cluster", [None, False, True])
def test_one_machine_is_claimed_where_no_cluster_ran_the_stages(cluster: bool | None) -> None:
    """None: an older report, which does not tell."""
    found = sample() | ({} if cluster is None else {"cluster": cluster})
    text, markdown = " ".join(Tags(report.html(found)).text), report.markdown(found)
    assert ("All of it on one machine, the one described below." in text) == (cluster is False)
    assert ("Stages ran on a cluster, on machines that may be others" in text) == (cluster is True)
    assert ("Stages ran on a cluster, on machines that may be others" in markdown) == (cluster is True)
    assert ("on the clock of the machine that ran it" in text) == (cluster is True)


def test_the_candidate_that_missed_in_the_end_is_shown_beside_the_teacher() -> None:
    for text in (" ".join(Tags(report.html(missed())).text), report.markdown(missed())):
        assert "3 blocks, int8 fits on dev, but not in the end" in text and "chosen on dev, beside the teacher" in text
        assert "✗" in text and "not met" in text and "Met by" not in text
        assert "95.9\u00a0%" in text and "prune.layers(keep=3, rule=auto)" in text


def test_without_a_test_set_or_a_command() -> None:
    found = untested() | {"command": "", "notes": ["No test set was given."]}
    for text in (" ".join(Tags(report.html(found)).text), report.markdown(found)):
        assert "No test set was given." in text and "p50 / p95" in text and "p99" not in text
        assert "Run the same command" not in text
    assert "Quality on dev, accuracy, n = 872" in report.card(found) and "model-index" not in report.card(found)


def test_missing_numbers_are_not_zero() -> None:
    found = sample()
    keys = found["winner"]["numbers"]
    found["winner"]["numbers"] = dict.fromkeys(keys)
    found["teacher"]["numbers"] = dict.fromkeys(keys)
    found["candidates"], found["baselines"] = [], []
    text = " ".join(Tags(report.html(found)).text)
    assert "not measured" in text and "Nothing to draw" in text
    assert not re.search(r"(?<![\d.,])0(\.0+)?\s*(ms|MB|%|×)", text)
    assert all(line.met is None and line.measured == "not measured" for line in constraints(found))


# ---- the card ---------------------------------------------------------------------------------------------------


def test_card_front_matter() -> None:
    _, front, body = report.card(SAMPLE).split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["library_name"] == "smidgen" and meta["pipeline_tag"] == "text-classification"
    assert meta["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    result = meta["model-index"][0]["results"][0]
    assert result["task"]["type"] == "text-classification" and result["dataset"]["type"] == "custom"
    assert result["metrics"] == [{"type": "accuracy", "value": 0.8726, "name": "accuracy"}]
    assert 'smidgen predict winner "text"' in body and 'smidgen.load("winner").predict' in body
    assert "98.2\u00a0% (97.1–99.3\u00a0%)" in body and "prune.layers(keep=3, rule=auto)" in body


def test_card_is_what_the_hub_reads() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(report.card(SAMPLE))
    assert card.data.eval_results[0].metric_value == 0.8726 and card.data.model_name == "3 blocks, int8"
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_split) == ("text-classification", "test")
    (index,) = card.data.to_dict()["model-index"]
    assert index == yaml.safe_load(report.card(SAMPLE).split("---\n")[1])["model-index"][0], "as it was written"


def test_card_keeps_folders_and_local_models_to_itself() -> None:
    found = sample()
    found["data"]["test"]["source"] = "/home/someone/secret/test.csv"
    found["model"]["reference"] = "/home/someone/model"
    text = report.card(found)
    assert "someone" not in text and "base_model" not in text and "name: test.csv" in text
    found["winner"]["recipe"]["model"] = "google/bert_uncased_L-4_H-256_A-4"
    assert "base_model: google/bert_uncased_L-4_H-256_A-4" in report.card(found)


# ---- reading and writing ----------------------------------------------------------------------------------------


def test_render_writes_two_files_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(SAMPLE), encoding="utf-8")
    written = report.render(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html", "report.md"}
    assert written["report.html"].read_text(encoding="utf-8") == report.html(SAMPLE)
    assert written["report.md"].read_text(encoding="utf-8").startswith("# 3 blocks, int8")


def test_render_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"report\.json: no such file.*Type: smidgen report DIR"):
        report.render(tmp_path)
    (tmp_path / "report.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"not JSON \(.*\)\. Run the smidgen compress command again"):
        report.render(tmp_path)


def test_check_names_every_missing_key() -> None:
    found = sample()
    report.check(found)
    del found["data"]["test"]
    del found["winner"]["numbers"]["latency"]["p95_ms"]
    found["candidates"][2]["numbers"].pop("size_mb")
    found["teacher"] = None
    with pytest.raises(ArtefactError) as caught:
        report.check(found)
    for path in ("data.test", "winner.numbers.latency.p95_ms", "candidates[2].numbers.size_mb", "teacher"):
        assert path in str(caught.value)
    assert "Wanted every key of schema 1. Run the smidgen compress command again" in str(caught.value)


def test_check_of_what_may_be_there() -> None:
    found = portrayed()
    report.check(found | {"choice": None})
    del found["portrait"]["differ"][1]["winner"]["p"]
    del found["portrait"]["calibration"]["teacher"]["bins"]
    found["alternatives"] = {}
    with pytest.raises(ArtefactError) as caught:
        report.check(found)
    for path in ("portrait.differ[1].winner.p", "portrait.calibration.teacher.bins", "alternatives (a list)"):
        assert path in str(caught.value)


def test_check_other_faults() -> None:
    found = sample()
    with pytest.raises(ArtefactError, match=r"got schema 2, this smidgen reads schema 1\. Type: pip install --upgrade"):
        report.check(found | {"schema": 2})
    with pytest.raises(ArtefactError, match="got verdict 'won', wanted 'met' or 'not_met'"):
        report.check(found | {"verdict": "won"})
    with pytest.raises(ArtefactError, match=r"missing candidates \(a list\)"):
        report.check(found | {"candidates": {}})
    with pytest.raises(ArtefactError, match="got list, wanted an object"):
        report.check([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("jinja2", "jinja2", report.markdown),
        ("yaml", "pyyaml", report.card),
    ],
)
def test_missing_extra(monkeypatch: pytest.MonkeyPatch, module: str, package: str, call: Any) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"needs {package}.*Type: pip install 'smidgen\[train\]'"):
        call(SAMPLE)


def test_import_is_light() -> None:
    code = "import sys, smidgen.report; print([m for m in ('torch', 'jinja2', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
