"""Providers' looks: no two of a report alike, the same in all of its figures and on its page."""

import base64
import functools
import gzip
import itertools
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.legend import Legend

from bench.cases.arguments import MOST_NAME
from bench.records import store
from bench.report import build, frames, terms
from bench.report.pages import page
from bench.report.runs import Run
from bench.report.speed import figures
from bench.report.style import looks
from bench.report.style.sheet import Sheet
from tests.helpers import synthetic

EVERYDAY = (
    *("mine", "keras", "my-gru", "kernel-a", "my-lstm", "kernel-b", "v1", "old", "jax", "v2"),
    *("opt", "unfused", "baseline", "new", "fused", "xla", "mlx", "v3", "test", "a", "b"),
)
MOST = len(looks.SPARE)


@pytest.fixture(autouse=True)
def _forget_looks() -> None:
    looks.assign(())


def assigned(names: Sequence[str]) -> dict[str, looks.Look]:
    looks.assign(names)
    return {name: looks.look(name) for name in names}


def random_names(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [f"{draw.choice(EVERYDAY)}-{draw.randrange(10**6)}" for _ in range(count)]


@pytest.mark.parametrize("names", [EVERYDAY, *(random_names(MOST, seed) for seed in range(20))])
def test_no_two_providers_look_alike_as_lines_or_as_points(names: Sequence[str]):
    assert len(set(names)) == MOST == 21
    found = assigned([*names, *terms.PROVIDER_ORDER]).values()
    assert len({(look.color, look.marker) for look in found}) == len(found)
    assert len({(look.marker, str(look.linestyle)) for look in found}) == len(found)


def test_looks_depend_on_the_names_only():
    found = assigned(EVERYDAY)
    shuffled = random.Random(0).sample(EVERYDAY, len(EVERYDAY))
    looks.assign([*shuffled, "torch.nn", "effect-all"])
    assert {name: looks.look(name) for name in EVERYDAY} == found
    assert looks.look("torch.nn") == looks.LOOKS["torch.nn"]
    # Also in a process that draws, whichever figure comes first.
    looks.look("drawn before")
    build.begin_drawing(EVERYDAY)
    assert {name: looks.look(name) for name in reversed(EVERYDAY)} == found


def test_a_report_gives_looks_to_all_its_providers_at_once(tmp_path: Path, monkeypatch):
    case = next(synthetic.cases())
    records = [synthetic.failed(case, name, "error", "x", mode="event") for name in EVERYDAY]
    folder = synthetic.save(tmp_path / "x", [synthetic.timed(case, "torch.nn"), *records])
    given: list[Any] = []
    monkeypatch.setattr(looks, "assign", given.append)
    monkeypatch.setattr(page, "library", lambda: None)  # the page takes most of the time
    build.build_report([folder])
    assert given == [sorted({*EVERYDAY, "torch.nn"})]


def report_look(name: str, folder: Path) -> list[Path]:
    """A job that draws nothing and returns the look it would draw with."""
    return [Path(repr(looks.look(name)))]


@pytest.mark.slow
def test_every_process_that_draws_has_the_same_looks(tmp_path: Path):
    """Each takes some of the figures, and so sees the names in an order of its own."""
    names = list(reversed(EVERYDAY))
    jobs = [(functools.partial(report_look, name), tmp_path) for name in names]
    with build.drawing(jobs, EVERYDAY) as finished:
        found = [path for (path,) in finished()]
    assert found == [Path(repr(look)) for look in (assigned(EVERYDAY)[name] for name in names)]


def test_the_page_has_the_same_looks_in_its_own_shapes():
    assigned(EVERYDAY)
    records = [synthetic.failed(next(synthetic.cases()), name, "error", "x") for name in EVERYDAY]
    shown = page.provider_looks([Run("x", Path("x"), records)])
    assert {each["name"]: each["color"] for each in shown} == {
        name: looks.look(name).color for name in EVERYDAY
    }
    assert len({(each["color"], each["shape"]) for each in shown}) == MOST
    assert len({(each["shape"], str(each["dash"])) for each in shown}) == MOST
    assert {look.marker for look in (*looks.SPARE, *looks.LOOKS.values())} <= page.SHAPES.keys()


def throughput(names: Sequence[str], monkeypatch) -> Sheet:
    """The figure of these providers, which is not saved."""
    kept: list[Sheet] = []
    monkeypatch.setattr(Sheet, "save", lambda sheet, *_: kept.append(sheet))
    monkeypatch.setattr(synthetic, "SPEED", dict.fromkeys(names, (3.0, 0.4)))
    cases = list(synthetic.cases(cell="lstm", B=16, T=256, H=[64, 128]))
    records = [synthetic.timed(case, name) for case, name in itertools.product(cases, names)]
    looks.apply_style()
    next(figures.line_jobs(frames.flat(records)))(Path("nowhere"))
    return kept[0]


def text_of(sheet: Sheet) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in sheet.figure.texts)


def test_more_providers_than_looks_are_named_in_the_figure_and_on_the_page(monkeypatch):
    names = [*EVERYDAY, "one-more"]
    found = assigned(names)
    shared = [name for name in sorted(names) if list(found.values()).count(found[name]) > 1]
    assert len(shared) == 2, "a look is shared by as few as possible"
    said = f"Drawn alike, as there are no more looks: {', '.join(shared)}."
    assert said in text_of(throughput(names, monkeypatch))
    records = [synthetic.timed(next(synthetic.cases()), name) for name in names]
    assert alike_on_page(records) == [said]
    assigned(EVERYDAY)
    assert "Drawn alike" not in text_of(throughput(EVERYDAY, monkeypatch))
    assert alike_on_page(records[:-1]) == []


def alike_on_page(records: list[store.Record]) -> list[str]:
    html = page.render([Run("x", Path("x"), records)], script="")
    packed = re.search(r'id="data"[^>]*>\s*([^<]+?)\s*<', html)
    assert packed
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))["alike"]


@pytest.mark.parametrize("letters", ["n", "W", "a-b_c.d+e=", "no break "])
def test_the_longest_name_stays_within_the_figure(letters: str, monkeypatch):
    name = (letters * MOST_NAME)[: MOST_NAME - 1] + "x"
    sheet = throughput([name, "torch.nn"], monkeypatch)
    (legend,) = (each for each in sheet.figure.get_children() if isinstance(each, Legend))
    box, whole = legend.get_window_extent(), sheet.figure.bbox
    assert box.x0 >= 0 and box.x1 <= whole.width, (box, whole)
    assert box.y0 >= sheet.axes[0, 0].get_window_extent().y1, "above the panels"


@pytest.mark.parametrize("letter", ["i", "e", "0", "M"])
def test_a_note_of_any_letters_fits_in_the_figure(letter: str, tmp_path: Path):
    looks.apply_style()
    sheet = Sheet(1, 1, title="", origin="", notes=[f"{letter * 9} " * 30])
    *_, note = sheet.figure.texts
    canvas: Any = sheet.figure.canvas
    extent = note.get_window_extent(canvas.get_renderer())
    assert extent.x1 <= sheet.figure.bbox.x1 and note.get_text().count(letter) == 270
