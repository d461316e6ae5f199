"""The results page in a real browser: from disk alone, obeying its controls and the keyboard."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import store
from bench.report import build, frames, page
from tests import synthetic

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WAIT = 60_000  # ms: a browser on a busy machine


def device(folder: Path, name: str, records: list[store.Record]) -> None:
    path = folder / "records" / "synthetic.jsonl"
    path.parent.mkdir(parents=True)
    lines = [
        json.dumps(store.clean({**r, "device": {**r["device"], "name": name}})) for r in records
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two devices, the second of which is slower."""
    if page.library() is None:
        pytest.skip("the results page needs the package vl-convert-python")
    folder = tmp_path_factory.mktemp("results")
    records = synthetic.small()
    slower = [
        {
            **r,
            **{name: r[name] and 2 * r[name] for name in ("median_ms", "ci_low_ms", "ci_high_ms")},
        }
        for r in records
    ]
    device(folder / "one", f"{synthetic.DEVICE} 1", records)
    device(folder / "two", f"{synthetic.DEVICE} 2", slower)
    (path,) = build.results_pages(build.load([folder / "one"]))
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as start:
        # --no-sandbox: a container's root has no user namespaces for it; the page is our own file.
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        found = start.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


class Opened:
    """The page in a window, with all that it said and asked for."""

    def __init__(self, browser: Any, html: Path, width: int = 1440, height: int = 900) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(WAIT)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda fault: self.said.append(str(fault)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(html.as_uri())
        self.drawn(0)

    def drawn(self, before: int) -> None:
        self.page.wait_for_function(f"Number(document.body.dataset.drawn ?? 0) > {before}")

    def count(self) -> int:
        return int(self.page.evaluate("document.body.dataset.drawn"))

    def choose(self, name: str, value: str) -> None:
        """Choose and wait until the plots follow."""
        before = self.count()
        self.page.select_option(f"#{name}", value)
        self.drawn(before)

    def options(self, name: str) -> list[str]:
        return self.page.eval_on_selector_all(f"#{name} option", "all => all.map((o) => o.value)")

    def plot(self) -> str:
        return self.page.inner_html("#lines")

    def table(self) -> list[list[str]]:
        return self.page.eval_on_selector_all(
            "#table tbody tr", "all => all.map((r) => [...r.cells].map((c) => c.textContent))"
        )


@pytest.fixture
def opened(browser: Any, html: Path) -> Iterator[Opened]:
    found = Opened(browser, html)
    yield found
    assert found.said == [], "nothing on the console"
    found.context.close()


def test_it_is_small_enough_and_asks_nobody(html, opened):
    assert html.stat().st_size <= page.MOST_BYTES
    outside = [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == [] and len([u for u in opened.asked if u.startswith("file:")]) == 1


def test_every_choice_changes_what_is_shown(opened):
    seen = {opened.plot()}
    for name, value in (
        *(("cell", "gru"), ("pass", "fwd+bwd"), ("axis", "B"), ("axis", "T")),
        *(("metric", "speedup"), ("metric", "memory"), ("metric", "output"), ("number", "fp32")),
    ):
        assert value in opened.options(name), (name, opened.options(name))
        opened.choose(name, value)
        assert opened.plot() not in seen, f"{name}={value} changed nothing"
        seen.add(opened.plot())
    before, plot = opened.count(), opened.plot()
    opened.page.uncheck("input[value='torch.nn']")
    opened.drawn(before)
    assert opened.plot() != plot
    assert "torch.nn" not in {row[0] for row in opened.table()}


def test_failures_are_marked_with_their_reason(opened):
    opened.choose("cell", "gru")
    assert "FlashRNN's fused backend has no GRU" in opened.page.inner_text("#notes")
    assert "unsupported: FlashRNN's fused backend has no GRU" in opened.page.inner_text("#table")
    letters = opened.page.eval_on_selector_all(
        "#lines text", "all => all.map((t) => t.textContent)"
    )
    assert "U" in letters


def test_the_map_shows_speed_over_torch(opened):
    opened.choose("metric", "speedup")
    words = opened.page.eval_on_selector_all("#map text", "all => all.map((t) => t.textContent)")
    assert {"64", "1024", "1.6"} <= set(words)
    assert "faster than torch.nn" in opened.page.inner_text("#map-notes")


def test_a_point_shows_its_raw_record(opened):
    marks = opened.page.locator("#lines .mark-symbol path[aria-label]")
    marks.nth(2).click(force=True)
    record = json.loads(opened.page.inner_text("#record"))
    assert set(record) == set(store.FIELDS)
    assert record["device"]["name"] == f"{synthetic.DEVICE} 1"
    assert len(record["samples_ms"]) == 12, "a small page keeps every sample"
    assert opened.page.locator("tr.chosen").count() == 1


def test_two_devices_stand_beside_each_other(opened):
    one = {(r[0], r[2]): r[1] for r in opened.table()}
    opened.choose("other", "1")
    rows = opened.table()
    assert {row[0] for row in rows} == {f"{synthetic.DEVICE} {k}" for k in (1, 2)}
    both = {(r[0][-1], r[1], r[3]): float(r[2]) for r in rows if r[2]}
    provider, size = next(iter(one))
    ratio = both["1", provider, size] / both["2", provider, size]
    assert ratio == pytest.approx(2, rel=0.02)
    assert opened.page.inner_text("#origin").count(synthetic.DEVICE) == 2


def test_latex_and_citation_are_copied(opened):
    read = "navigator.clipboard.readText()"
    opened.page.click("#copy-latex")
    opened.page.wait_for_function("document.getElementById('status').textContent != ''")
    text = opened.page.evaluate(read)
    assert text.startswith("% Needs") and text.count(r"\toprule") == 1 and "torch.nn" in text
    assert text.count("{") == text.count("}")
    opened.page.click("#copy-citation")
    opened.page.wait_for_function(
        "document.getElementById('status').textContent.includes('citation')"
    )
    assert "@software{rnnbench" in opened.page.evaluate(read)


def test_the_keyboard_is_enough(opened):
    """Tab to the cell, change it, tab on to a table's button, and open a record."""
    keys = opened.page.keyboard
    reached = []
    for _ in range(60):
        keys.press("Tab")
        focused = opened.page.evaluate(
            "[document.activeElement.id, document.activeElement.ariaLabel ?? '']"
        )
        reached.append(focused[0])
        if focused[0] == "cell":
            before, plot = opened.count(), opened.plot()
            keys.press("ArrowUp")
            opened.drawn(before)
            assert opened.plot() != plot
        if focused[1].startswith("record of"):
            keys.press("Enter")
            break
    assert {"metric", "cell", "pass", "axis", "copy-latex"} <= set(reached)
    assert json.loads(opened.page.inner_text("#record"))["cell"] == "gru"
    assert opened.page.evaluate("document.activeElement.id") == "record-title"


@pytest.mark.parametrize("width", [375, 1440])
def test_it_is_legible_on_a_phone_and_on_a_desk(browser, html, width):
    opened = Opened(browser, html, width)
    across = opened.page.evaluate("document.documentElement.scrollWidth")
    assert across <= width, "nothing sticks out sideways"
    box = opened.page.locator("#lines svg.marks").bounding_box()
    assert box and box["width"] > 0.5 * min(width, 800) and box["x"] + box["width"] <= width
    small = opened.page.eval_on_selector_all(
        "body *", """all => all.filter((e) => e.childNodes.length === 1 && e.textContent.trim()
        && e.getClientRects().length && !["SCRIPT", "STYLE"].includes(e.tagName))
        .map((e) => parseFloat(getComputedStyle(e).fontSize)).filter((size) => size < 11)""",
    )  # fmt: skip
    assert small == [], "no letters below 11 px"
    assert opened.said == []
    opened.context.close()


def test_a_page_of_many_records_says_what_it_leaves_out():
    """Without a browser: the savings are taken in turn until the page is small enough."""
    if page.library() is None:
        pytest.skip("the results page needs the package vl-convert-python")
    run = frames.Run("Synthetic test device", Path("synthetic"), synthetic.many(4000))
    text = page.render([run], str(page.library()))
    assert len(text.encode()) <= page.MOST_BYTES
    level = next(
        k for k in range(len(page.SAVINGS))
        if len(page._compressed(page.pack([(run, page.derived(run))], k))) * 4 / 3 < 1e6
    )  # fmt: skip
    packed = page.pack([(run, page.derived(run))], level)
    assert packed["left_out"] == [words for words, _ in page.SAVINGS[1 : level + 1]]
