"""Text from outside in every output: shown as it is, read as no markup, formula or command."""

import csv
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from matplotlib.mathtext import MathTextParser

from bench.records import files
from bench.report import build, compare, frames, text
from bench.report.device import checks
from bench.report.pages import device_page, page
from bench.report.runs import load
from bench.report.style import plots, typeset
from tests.helpers import synthetic

AWKWARD = {
    "dollars": "needs $ROCM_PATH\\bin and $HIP_PATH",
    "formula": "set $CUDA_HOME, nvcc is not in $PATH",
    "bad formula": "cost $\\frac$ of $x_",
    "columns": "a | b \\| c",
    "code": "run `nvcc --version`; ``x`` and `",
    "html": "<script>alert(1)</script> & <b>bold</b> &amp; &#65; <https://a.example>",
    "emphasis": "*all* of __init__ and _this_, rnn_tanh, ~~old~~ 2*3*4",
    "links": "[here](file:///x) ![p](q.png) [a][b] [c]: d",
    "heading": "# not a heading",
    "list": "- no list",
    "numbered": "1. no list",
    "lines": "first\nsecond\r\n\n| third\tend",
    "control": "bell\x07 escape\x1b[31mred\x1b[0m null\x00 delete\x7f",
    "surrogate": "half \ud800 of a pair",
    "reversed": "abc\u202edef\u2066",
    "latex": "50 % of {x}_1^2 & #3 ~ \\input{/etc/passwd} \"q\" --long ?` !`",
    "bracket": "[x] begins a row",
    "quotes": 'say "no", then, \'no\'',
    "long": "/" + "x" * 400,
}  # fmt: skip
BACK = {value: letter for letter, value in text.SPECIAL.items()}
LATEX = re.compile("|".join(map(re.escape, sorted(BACK, key=len, reverse=True))))


def shown_by_markdown(source: str) -> str:
    """What a reader of rendered Markdown sees; fails on anything but text."""
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    (paragraph,) = [token for token in parser.parse(source) if token.type == "inline"]
    assert {child.type for child in paragraph.children or []} <= {"text", "text_special"}
    return "".join(child.content for child in paragraph.children or [])


def failing(reason: str) -> list:
    """Invented times of two providers, of which one failed once with this reason."""
    times = [
        synthetic.timed(case, provider)
        for case in synthetic.cases(cell="lstm", B=16, T=256, H=[64, 128])
        for provider in ("torch.nn", "ours")
    ]
    case = next(synthetic.cases(cell="lstm", B=16, T=256, H=512))
    return [
        *times,
        synthetic.timed(case, "torch.nn"),
        synthetic.failed(case, "ours", "error", reason),
    ]


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD)
def test_every_format_shows_text_as_it_is(awkward: str):
    plain = text.plain(awkward)
    assert plain.isprintable() and text.plain(plain) == plain
    markdown = text.as_markdown(awkward)
    assert shown_by_markdown(markdown) == plain.strip()
    assert "$" not in re.sub(r"\\.", "", markdown), "on GitHub, two enclose a formula"
    latex = text.as_latex(awkward)
    assert LATEX.sub(lambda found: BACK[found[0]], latex).replace("\0", "") == plain
    assert not re.search(r"--|``|''(?!')|[?!]`", latex.replace(text.SPECIAL['"'], ""))


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD)
def test_a_table_has_a_cell_for_each_text(awkward: str, tmp_path: Path):
    (run,) = load([synthetic.save(tmp_path / "x", failing(awkward))])
    (table,) = checks.failures(run)
    rows = [line for line in typeset.markdown(table).splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    cells = [each.strip() for each in re.split(r"(?<!\\)\|", rows[-1])[1:-1]]
    assert len(cells) == len(table.shown.columns)
    (reason,) = table.shown["reason"]
    assert shown_by_markdown(cells[3]).split() == reason.split()
    lines = [line for line in typeset.latex(table).splitlines() if line.endswith(r"\\")]
    assert len(lines) == 2 and len(re.findall(r"(?<!\\)&", lines[-1])) == len(cells) - 1
    typeset.write(table, tmp_path)
    with (tmp_path / "failures.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reason"] == text.plain(awkward)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a device, versions and reasons of awkward text, drawn without formulas."""
    everything = " ".join(AWKWARD.values())
    device = {"name": everything}
    records = [
        {**record, "device": record["device"] | device, "provider_version": everything}
        for record in failing(AWKWARD["dollars"])
    ]
    for record in records:
        if record["provider"] == "ours":
            record["provider"] = "my fast+1 kernel"  # which names a file of a figure
    for seed, reason in enumerate(AWKWARD.values()):
        records.append({**records[-1], "H": 1024, "seed": seed, "reason": reason})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a text is read as a formula")

    folder = synthetic.save(tmp_path_factory.mktemp("results") / "device", records)
    short = {name: AWKWARD[name] for name in ("control", "surrogate", "columns")}
    floor = synthetic.floor() | {"problems": {"multiply": everything} | short}
    (folder / files.FLOOR).write_text(json.dumps(floor), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MathTextParser, "parse", refuse)
        build.build_report([folder])
    return folder


def test_a_report_of_awkward_text_has_printable_files_and_no_markup_of_its_own(made: Path):
    assert list(made.glob("figures/*.png"))
    page = (made / "README.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(page)
    children = [child for token in tokens for child in token.children or []]
    kinds = {token.type for token in (*tokens, *children)}
    assert "inline" in kinds and not {kind for kind in kinds if kind.startswith("html")}
    shown = [
        "".join(child.content for child in token.children or [])
        for token in tokens
        if token.type == "inline"
    ]
    everything = text.plain(" ".join(AWKWARD.values()))
    assert shown[0] == everything and shown[1].startswith(f"{everything} · torch ")
    assert list(made.glob("figures/speedup-my fast+1 kernel-*.png"))
    links = {str(child.attrGet("href")) for child in children if child.type == "link_open"}
    images = {str(child.attrGet("src")) for child in children if child.type == "image"}
    assert links and images
    drawn = {f"figures/{path.name}" for path in made.glob("figures/*.png")}
    assert {unquote(image) for image in images} == drawn
    for link in links:
        assert (made / unquote(link)).exists(), link
    texts = [path for kind in ("md", "tex") for path in made.rglob(f"*.{kind}")]
    for path in texts:
        letters = set(path.read_text(encoding="utf-8")) - {"\n", "\u00a0"}
        assert all(letter.isprintable() for letter in letters), path


def test_the_results_page_keeps_text_in_its_packed_data(made: Path):
    """From there the page's script sets it as text."""
    if page.library() is None:
        pytest.skip("the results page needs the package vl-convert-python")
    html = (made.parent / page.NAME).read_text(encoding="utf-8")
    assert "ROCM_PATH" not in html and "alert(1)" not in html
    scripts = [(device_page.TEMPLATES / name).read_text(encoding="utf-8") for name in page.SCRIPTS]
    assert re.findall(r"(?:inner|outer|Adjacent)HTML[^;]*", "".join(scripts)) == [
        'innerHTML = "<legend>Providers</legend>"'
    ]


def test_a_long_word_does_not_take_a_reason_away():
    records = [r for r in failing("error in " + AWKWARD["long"]) if r["status"] != "ok"]
    (note,) = plots.failure_notes(frames.flat(records))
    assert "error in /xxxx" in note and len(note) < 200 and note.endswith("…")


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD)
def test_a_comparison_keeps_its_columns(awkward: str):
    case = next(synthetic.cases())
    failure = synthetic.failed(case, "ours", "error", awkward, mode="event")
    question = case.case_id, "ours", "event"
    pairs = [compare.pair(question, [synthetic.timed(case, "ours")], [failure])]
    lines = compare.markdown(pairs, "a|b", "`c`", 0.05, every=True).splitlines()
    assert lines[0] == r"# \`c\` against a\|b" and len(lines) == 11
    cells = re.split(r"(?<!\\)\|", lines[-1])[1:-1]
    assert len(cells) == 8 and shown_by_markdown(cells[-1]).startswith("broken (error: ")
