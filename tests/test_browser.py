"""The page in a real browser: it draws, loads nothing, is used by keyboard, and is light or dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from reports import portrayed

from smidgen import report

pytest.importorskip("jinja2")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not BROWSER, reason="Chromium is not installed, so no page was opened in a browser")

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=3000"),
)
EVIL = "</style><script>document.title = 'run'</script><img src=x onerror=alert(2)>"

# What a reader does, in a page that may run a script: the one test that takes the policy away.
PROBE = """
<script>addEventListener("load", async () => {
  const told = {}, colour = (element) => getComputedStyle(element).backgroundColor;
  const cards = [...document.querySelectorAll(".card")];
  const shown = () => cards.filter((card) => card.offsetHeight).map((card) => card.id);
  const points = [...document.querySelectorAll("a.point")];
  told.first = shown().join();
  told.focusable = points.filter((point) => { point.focus(); return document.activeElement === point; }).length;
  told.large = points.every((point) => point.getBoundingClientRect().width >= 24);
  points[0].dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
  await new Promise((done) => setTimeout(done, 100));
  told.opened = shown().join() === points[0].getAttribute("href").slice(1);
  told.system = colour(document.body);
  document.querySelector("#theme-dark").click();
  told.dark = colour(document.body);
  document.querySelector("#theme-light").click();
  told.light = colour(document.body);
  told.loaded = performance.getEntriesByType("resource").length;
  told.wide = document.documentElement.scrollWidth <= innerWidth;
  for (const [key, value] of Object.entries(told)) document.body.setAttribute("data-" + key, value);
});</script>"""


def opened(path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={path.parent / 'profile'}", *more, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = portrayed(labels=(EVIL, "good"))
    found["candidates"][1]["name"] = EVIL
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.html(found), encoding="utf-8")
    return path


def test_it_draws_and_neither_loads_nor_runs_nor_complains(page: Path) -> None:
    done = opened(page, "--dump-dom")
    assert '<svg xmlns="http://www.w3.org/2000/svg" class="picture"' in done.stdout, done.stderr[-2000:]
    assert done.stdout.count('class="point"') == 7 and "<title>3 blocks, int8: " in done.stdout
    assert not re.search(r"CONSOLE|Refused to|net::ERR", done.stderr), done.stderr
    assert "<script" not in done.stdout and "<img" not in done.stdout


@pytest.mark.parametrize(("scheme", "ground"), [("1", "rgb(245, 246, 248)"), ("0", "rgb(14, 16, 19)")])
def test_it_is_used_by_keyboard_and_is_light_or_dark(page: Path, scheme: str, ground: str) -> None:
    probed = page.with_name(f"probed-{scheme}.html")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    probed.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    done = opened(probed, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=400,800", "--dump-dom")
    told = dict(re.findall(r'data-(\w+)="([^"]*)"', done.stdout.split("<body", 1)[1].split(">", 1)[0]))
    assert told == {
        "first": "entry-0",
        "focusable": "7",
        "large": "true",
        "opened": "true",
        "system": ground,
        "dark": "rgb(14, 16, 19)",
        "light": "rgb(245, 246, 248)",
        "loaded": "0",
        "wide": "true",
    }
