"""Results pages for tests, made from invented records and opened in a browser."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.cases.cases import Case
from bench.records import store
from bench.report import build
from bench.report.pages import page
from bench.report.runs import load
from tests.helpers import synthetic

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WAIT = 60_000  # ms: a browser on a busy machine


def page_of(folder: Path, *devices: list[store.Record], name: str | None = None) -> Path:
    """A page of these devices' records, by default each with a name of its own."""
    if page.library() is None:
        pytest.skip("the results page needs the package vl-convert-python")
    for k, records in enumerate(devices):
        device = {"name": name or f"{synthetic.DEVICE} {k}"}
        own = ({**r, "device": {**r["device"], **device}} for r in records)
        synthetic.save(folder / f"{k}", own)
    (path,) = build.results_pages(load([folder / "0"]))
    return path


class Opened:
    """The page in a browser window, with its console messages and requests."""

    def __init__(self, browser: Any, html: Path, width: int = 1440, height: int = 900) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height})
        self.context.set_default_timeout(WAIT)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self.messages.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda fault: self.messages.append(str(fault)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(html.as_uri())
        self.wait_for_redraw(0)

    def wait_for_redraw(self, before: int) -> None:
        self.page.wait_for_function(f"Number(document.body.dataset.drawn ?? 0) > {before}")

    def draw_count(self) -> int:
        return int(self.page.evaluate("document.body.dataset.drawn"))

    def choose(self, name: str, value: str) -> None:
        """Select a value in a menu and wait until the plots are redrawn."""
        before = self.draw_count()
        self.page.select_option(f"#{name}", value)
        self.wait_for_redraw(before)

    def set_checked(self, provider: str, on: bool) -> None:
        before = self.draw_count()
        self.page.set_checked(f"input[value='{provider}']", on)
        self.wait_for_redraw(before)

    def options(self, name: str) -> list[str]:
        return self.page.eval_on_selector_all(f"#{name} option", "all => all.map((o) => o.value)")

    def plot(self) -> str:
        return self.page.inner_html("#lines")

    def words(self, selector: str) -> list[str]:
        return self.page.eval_on_selector_all(selector, "all => all.map((e) => e.textContent)")

    def y_labels(self) -> list[str]:
        """The labels of the plot's y axis."""
        axes = self.page.eval_on_selector_all(
            "#lines .role-axis-label",
            "all => all.map((g) => [...g.querySelectorAll('text')].map((t) => t.textContent))",
        )
        return axes[-1]

    def copied(self, button: str, message: str) -> str:
        """Click a button, wait for `message` in the status line, and return the clipboard."""
        self.page.click(f"#{button}")
        self.page.wait_for_function(
            f"document.getElementById('status').textContent.includes('{message}')"
        )
        return str(self.page.evaluate("navigator.clipboard.readText()"))

    def latex(self) -> list[dict[str, str]]:
        """The rows of the copied LaTeX table, by column title."""
        text = self.copied("copy-latex", "LaTeX")
        rows = [line[:-3].split(" & ") for line in text.splitlines() if line.endswith(r" \\")]
        assert len({len(row) for row in rows}) == 1
        return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]

    def table(self) -> list[list[str]]:
        return self.page.eval_on_selector_all(
            "#table tbody tr", "all => all.map((r) => [...r.cells].map((c) => c.textContent))"
        )


LONG = "the kernel needs 300,000 bytes of shared memory and a program has 232,448, so no tile fits"


def failures(cases: list[Case], **changes: Any) -> list[store.Record]:
    names = ("ours", "torch.nn")
    return [synthetic.failed(c, name, "oom", LONG, **changes) for c in cases for name in names]


def timed(cases: list[Case]) -> list[store.Record]:
    return [synthetic.timed(case, name) for case in cases for name in ("ours", "torch.nn")]


def over_H(cell: str) -> list[Case]:
    return list(synthetic.cases(cell=cell, B=16, T=64, H=[64, 128, 256]))


def erroneous(relative: dict[str, list[float]]) -> list[store.Record]:
    """Error records over T whose every relative L2 is given, by provider."""
    cases = synthetic.cases(cell="lstm", B=4, T=[4, 16, 64], H=32, **{"pass": "fwd+bwd"})
    found = []
    for k, case in enumerate(cases):
        for name, values in relative.items():
            record = synthetic.erroneous(case, name)
            errors = {t: {**m, "rel_l2": values[k]} for t, m in record["errors"].items()}
            found.append({**record, "errors": errors})
    return found
