"""The results page in a real browser: without a network, by its controls and by the keyboard."""

import base64
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records import schema
from bench.report.pages import page
from bench.report.runs import Run
from tests.helpers import synthetic
from tests.helpers.page_driver import (
    CHROMIUM,
    LONG,
    Opened,
    erroneous,
    failures,
    over_H,
    page_of,
    timed,
)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two devices, the second of which is slower."""
    records = synthetic.small()
    times = ("median_ms", "ci_low_ms", "ci_high_ms")
    slower = [r | {name: r[name] and 2 * r[name] for name in times} for r in records]
    return page_of(tmp_path_factory.mktemp("results"), records, slower)


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


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens pages; at the end none may have logged anything to the console."""
    found: list[Opened] = []

    def start(html: Path, width: int = 1440) -> Opened:
        found.append(Opened(browser, html, width))
        return found[-1]

    yield start
    for one in found:
        assert one.messages == []
        one.context.close()


@pytest.fixture
def open_page(visit: Any, tmp_path: Path) -> Any:
    """Opens a page of the given devices' records."""
    return lambda *devices, width=1440, **name: visit(page_of(tmp_path, *devices, **name), width)


@pytest.fixture
def opened(visit: Any, html: Path) -> Opened:
    """The page of two devices."""
    return visit(html)


def test_every_choice_changes_what_is_shown_and_none_needs_a_network(html, opened):
    assert html.stat().st_size <= page.MOST_BYTES
    seen = {opened.plot()}
    for name, value in (
        *(("cell", "gru"), ("pass", "fwd+bwd"), ("axis", "B"), ("axis", "T")),
        *(("metric", "speedup"), ("metric", "memory"), ("metric", "output"), ("number", "fp32")),
    ):
        assert value in opened.options(name), (name, opened.options(name))
        opened.choose(name, value)
        assert opened.plot() not in seen, f"{name}={value} changed nothing"
        seen.add(opened.plot())
    plot = opened.plot()
    opened.set_checked("torch.nn", False)
    assert opened.plot() != plot
    assert "torch.nn" not in {row[0] for row in opened.table()}
    outside = [url for url in opened.requests if not url.startswith(("file:", "data:", "blob:"))]
    assert outside == [] and len([u for u in opened.requests if u.startswith("file:")]) == 1


def test_failures_have_their_reason_and_the_map_its_values(opened):
    opened.choose("cell", "gru")
    assert "FlashRNN's fused backend has no GRU" in opened.page.inner_text("#notes")
    assert "unsupported: FlashRNN's fused backend has no GRU" in opened.page.inner_text("#table")
    assert "U" in opened.words("#lines text")
    opened.choose("cell", "lstm")
    opened.choose("metric", "speedup")
    assert {"64", "1024", "1.6"} <= set(opened.words("#map text"))
    assert "faster than torch.nn" in opened.page.inner_text("#map-notes")


def test_a_point_shows_its_raw_record(opened):
    marks = opened.page.locator("#lines .mark-symbol path[aria-label]")
    marks.nth(2).click(force=True)
    record = json.loads(opened.page.inner_text("#record"))
    assert set(record) == set(schema.FIELDS)
    assert record["device"]["name"] == f"{synthetic.DEVICE} 0"
    assert len(record["samples_ms"]) == 12, "a small page keeps every sample"
    assert opened.page.locator("tr.chosen").count() == 1


def test_two_devices_are_compared(opened):
    one = {(r[0], r[1]): r[2] for r in opened.table()}
    opened.choose("other", "1")
    rows = opened.table()
    assert {row[0] for row in rows} == {f"{synthetic.DEVICE} {k}" for k in (0, 1)}
    both = {(r[0][-1], r[1], r[2]): float(r[3]) for r in rows if ": " not in r[3]}
    provider, size = next(iter(one))
    ratio = both["0", provider, size] / both["1", provider, size]
    assert ratio == pytest.approx(2, rel=0.02)
    assert opened.page.inner_text("#origin").count(synthetic.DEVICE) == 2


def test_latex_with_seeds_and_intervals_and_the_citation_are_copied(opened):
    text = opened.copied("copy-latex", "LaTeX")
    assert text.startswith("% Needs") and text.count(r"\toprule") == 1 and "torch.nn" in text
    assert text.count("{") == text.count("}")
    assert "@software{rnnbench" in opened.copied("copy-citation", "citation")
    keys = ("provider", "{$B$}", "{$T$}", "{$H$}", "{seed}")
    rows = opened.latex()
    assert "{seed}" not in rows[0]
    for row in rows:
        low, middle, high = (row[name] for name in ("{from}", "{throughput (tokens/s)}", "{to}"))
        assert (low, high) == ("{}", "{}") or float(low) < float(middle) < float(high)
    opened.choose("metric", "output")
    rows = opened.latex()
    assert len({tuple(row[name] for name in keys) for row in rows}) == len(rows) > 3
    assert "{from}" not in rows[0]


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
            before, plot = opened.draw_count(), opened.plot()
            keys.press("ArrowUp")
            opened.wait_for_redraw(before)
            assert opened.plot() != plot
        if focused[1].startswith("record of"):
            keys.press("Enter")
            break
    assert {"metric", "cell", "pass", "axis", "copy-latex"} <= set(reached)
    assert json.loads(opened.page.inner_text("#record"))["cell"] == "gru"
    assert opened.page.evaluate("document.activeElement.id") == "record-title"


@pytest.mark.parametrize("width", [375, 1440])
def test_it_is_legible_and_nothing_is_cut_off_on_a_phone_and_on_a_desk(visit, html, width):
    opened = visit(html, width)
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
    for metric in opened.options("metric"):
        if opened.page.input_value("#metric") != metric:
            opened.choose("metric", metric)
        narrow = opened.page.eval_on_selector_all(
            "form select", """all => all.filter((box) => {
            const free = box.cloneNode(true);
            Object.assign(free.style, { width: "max-content", maxWidth: "none" });
            free.style.position = "absolute";
            document.getElementById("choices").append(free);
            const wanted = free.offsetWidth;
            free.remove();
            return box.offsetWidth > 0 && box.offsetWidth < wanted; }).map((box) => box.id)""",
        )  # fmt: skip
        assert narrow == [], metric


def test_nothing_stale_is_ever_shown(opened):
    """The map goes with its provider, and with all providers everything goes."""
    opened.choose("provider", "torch.nn")
    opened.set_checked("torch.nn", False)
    assert "torch.nn" not in opened.page.inner_text("#map-title")
    opened.choose("cell", "gru")
    opened.choose("pass", "fwd+bwd")
    assert "torch.nn" not in opened.page.inner_text("#map-title")
    ticked = opened.page.eval_on_selector_all("input:checked", "all => all.map((e) => e.value)")
    for name in ticked:
        opened.set_checked(name, False)
    for plot, notes in (("#lines", "#notes"), ("#map", "#map-notes")):
        assert not opened.page.is_visible(plot) and opened.page.inner_html(plot) == ""
        assert opened.page.inner_text(notes) == "Nothing to draw: no provider is ticked."
    assert opened.page.inner_text("#map-title") == "Map over B and H"
    assert opened.table() == [] and opened.page.is_disabled("#copy-latex")
    opened.set_checked("ours", True)
    assert opened.page.is_visible("#lines") and opened.page.is_visible("#map")


@pytest.mark.parametrize("low, high", [(1.2e-7, 2.4e-7), (4e-7, 4.1e-7), (1e-7, 3e-3), (3e-9, 4.0)])
def test_labels_of_the_logarithmic_axis_differ(open_page, low, high):
    opened = open_page(erroneous({"ours": [low, (low * high) ** 0.5, high]}))
    labels = opened.y_labels()
    assert 2 <= len(labels) <= 8 and len(set(labels)) == len(labels), labels
    values = [float(label) for label in labels]
    assert values == sorted(values) and len(set(values)) == len(values)


def test_the_map_gives_two_digits(open_page):
    cases = synthetic.cases(cell="lstm", B=4, T=16, H=[32, 64, 128], **{"pass": "fwd+bwd"})
    records = [synthetic.erroneous(case, "ours") for case in cases]
    for record, value in zip(records, (3.6e-7, 4.04e-7, 4.4e-7), strict=True):
        record["errors"]["y"]["rel_l2"] = value
    opened = open_page(records)
    assert opened.words("#map .mark-text.role-mark text") == ["3.6e-7", "4.0e-7", "4.4e-7"]


def test_an_error_of_zero_stays(open_page):
    """In the table as 0, in the plot at the bottom of the axis, below every other point."""
    opened = open_page(erroneous({"ours": [0.0, 0.0, 0.0], "torch.nn": [2e-7, 3e-7, 4e-7]}))
    assert [row[2] for row in opened.table() if row[0] == "ours"] == ["0"] * 3
    assert "An error of zero is drawn at the bottom" in opened.page.inner_text("#notes")
    places = opened.page.eval_on_selector_all(
        "#lines .mark-symbol path[aria-label]",
        """all => all.map((e) => [e.ariaLabel.includes("provider: ours"),
        e.getBoundingClientRect().y])""",
    )
    ours = {y for is_ours, y in places if is_ours}
    assert len(places) == 6 and len(ours) == 1
    assert min(ours) > max(y for is_ours, y in places if not is_ours) + 10
    assert opened.y_labels()[0] == "0" and opened.words("#map .mark-text.role-mark text") == ["0"]


def test_only_errors_of_zero_are_drawn(open_page):
    opened = open_page(erroneous({"ours": [0.0, 0.0, 0.0]}))
    assert opened.y_labels() == ["0"] and len(opened.table()) == 3


@pytest.mark.parametrize("kind", ["time", "error"])
def test_only_failures_are_shown(open_page, kind):
    opened = open_page(failures(over_H("lstm"), kind=kind))
    assert opened.options("cell") == ["lstm"] and opened.options("number") == ["bf16"]
    assert opened.words("#lines .mark-text.role-mark text") == ["M"] * 6
    assert opened.words("#map .mark-text.role-mark text") == ["M"] * 3
    assert LONG in opened.page.inner_text("#notes") and LONG in opened.page.inner_text("#table")


def test_what_only_failed_can_be_chosen(open_page):
    opened = open_page(timed(over_H("lstm")) + failures(over_H("gru")))
    assert set(opened.options("cell")) == {"lstm", "gru"}
    assert len(opened.y_labels()) > 1, "what was measured comes first"
    opened.choose("cell", "gru")
    assert opened.words("#lines .mark-text.role-mark text") == ["M"] * 6
    opened.choose("provider", "torch.nn")
    assert opened.page.input_value("#cell") == "gru", "a choice stays"


def test_a_device_of_failures_does_not_come_first(open_page):
    opened = open_page(failures(over_H("lstm")), timed(over_H("lstm")))
    assert opened.page.input_value("#device") == "1" and len(opened.y_labels()) > 1
    opened.choose("device", "0")
    assert opened.words("#lines .mark-text.role-mark text") == ["M"] * 6
    opened.choose("other", "1")
    assert len(opened.table()) == 12


def test_devices_of_one_name_differ_by_their_folders(open_page):
    opened = open_page(timed(over_H("lstm")), timed(over_H("lstm")), name="Synthetic")
    opened.choose("other", "1")
    assert {row[0] for row in opened.table()} == {"Synthetic (0)", "Synthetic (1)"}
    assert len({(row["device"], row["provider"], row["{$H$}"]) for row in opened.latex()}) == 12


def test_a_device_without_any_value_says_so(open_page):
    nothing = [{**r, "errors": {}} for r in erroneous({"ours": [1.0, 1.0, 1.0]})]
    opened = open_page(timed(over_H("lstm")), nothing)
    opened.choose("device", "1")
    words = "Nothing to draw: no record of this device holds a value."
    assert opened.page.inner_text("#notes") == opened.page.inner_text("#map-notes") == words
    assert not opened.page.is_visible("#cell") and opened.table() == []
    opened.choose("device", "0")
    assert opened.page.is_visible("#lines") and len(opened.table()) == 6


def test_the_gradient_is_shown_where_there_is_one(open_page):
    """Not among failures of the forward pass, whatever was shown before."""
    cases = list(synthetic.cases(cell="lstm", B=4, T=[4, 16], H=32, **{"pass": "fwd"}))
    good = erroneous({"ours": [1e-7, 2e-7, 3e-7]})
    forward = [synthetic.erroneous(c, "ours") for c in cases] + failures(cases, kind="error")
    opened = open_page(good + forward)
    opened.choose("metric", "gradient")
    assert opened.options("pass") == ["fwd+bwd"] and len(opened.y_labels()) > 1


@pytest.mark.parametrize("both", [False, True])
def test_a_reason_is_read_on_a_phone_without_scrolling(open_page, both):
    records = timed(over_H("lstm")) + failures(over_H("lstm"), mode="event")
    opened = open_page(records + failures(over_H("gru")), failures(over_H("gru")), width=375)
    if both:
        opened.choose("other", "1")
    opened.choose("cell", "gru")
    boxes = opened.page.eval_on_selector_all(
        "#table td.words",
        """all => all.map((cell) => { const range = document.createRange();
        range.selectNodeContents(cell);
        const box = range.getBoundingClientRect();
        return [box.left, box.right, cell.parentElement.offsetHeight]; })""",
    )
    assert len(boxes) == (12 if both else 6)
    assert all(left > 0 and right <= 375 for left, right, _ in boxes), boxes
    assert all(height < 250 for *_, height in boxes), boxes


def test_a_page_of_many_records_says_what_it_leaves_out():
    """Without a browser: the savings are taken in turn until the page is small enough."""
    if page.library() is None:
        pytest.skip("the results page needs the package vl-convert-python")
    run = Run(synthetic.DEVICE, Path("synthetic"), 9 * synthetic.small())
    text = page.render([run], str(page.library()))
    assert len(text.encode()) <= page.MOST_BYTES
    packed = re.search(r'id="data"[^>]*>\s*([^<]+?)\s*<', text)
    assert packed
    left_out = json.loads(gzip.decompress(base64.b64decode(packed[1])))["left_out"]
    assert left_out and left_out == [words for words, _ in page.SAVINGS[1 : len(left_out) + 1]]
