"""`bench cite`: BibTeX of the suite and of the software a run used, and its methods text."""

import re
from pathlib import Path

import pytest

from bench.cli import cite as cite_command
from bench.report.pages import cite
from bench.report.runs import Run
from tests.helpers import synthetic


def entries(text: str) -> dict[str, str]:
    """BibTeX entries by key, each with balanced braces."""
    found = {}
    for match in re.finditer(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        assert match[3].count("{") == match[3].count("}"), match[2]
        found[match[2]] = match[3]
    return found


def run(**changes) -> Run:
    records = [{**record, **changes} for record in synthetic.small()]
    return Run(synthetic.DEVICE, Path("synthetic"), records)


def test_the_suite_is_cited_from_its_citation_file(tmp_path):
    (body,) = entries(cite.suite()).values()
    assert "{The rnnbench authors}" in body and re.search(r"version = \{\d+\.\d+", body)
    path = tmp_path / "CITATION.cff"
    path.write_text("title: rnnbench\nversion: 1.0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks one of title, version, authors"):
        cite.suite(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("date-released: 2026-05-04\ndoi: 10.1/x\n")
        file.write("authors:\n  - name: One\n  - name: Two\n")
    body = entries(cite.suite(path))["rnnbench"]
    assert "{2026}" in body and "{10.1/x}" in body and "{{One} and {Two}}" in body


def test_only_whom_a_run_measured_is_cited():
    assert set(cite.peers_of(run())) == {"pytorch2", "triton", "cudnn", "flashrnn"}
    small = run()
    small.records = [r for r in small.records if r["provider"] == "reference"]
    assert cite.peers_of(small) == ["pytorch2"]
    assert "deepbench" in cite.peers_of(run(run_id="deepbench-000000000000"))


def test_the_methods_paragraph_is_filled_from_the_run():
    said = cite.methods(run())
    for words in (
        *("commit 000000000", synthetic.DEVICE, "torch 2.13.0", "Triton 3.7.1", "cuDNN 9.20.0"),
        *(
            "GRU and LSTM",
            "bf16",
            "B 1 to 64",
            "T 64 to 512",
            "H 64 to 1024",
            "8 visits (16 samples)",
        ),
        *("CUDA events", "3 seeds", "interpreter"),
    ):
        assert words in said, words
    assert "None" not in said and "nan" not in said


def test_the_command_prints_bibtex_and_methods(capsys):
    cite_command.command(None)
    assert set(entries(capsys.readouterr().out)) == {"rnnbench"}
    text = cite.text(run())
    assert set(entries(text)) == {"rnnbench", "pytorch2", "triton", "cudnn", "flashrnn"}
    assert f"% Methods (LaTeX), for {synthetic.DEVICE}" in text
    odd = run(device=synthetic.facts()["device"] | {"name": "A_b 100% & #1 $x"})
    assert r"A\_b 100\% \& \#1 \$x" in cite.text(odd)
    # What was only compiled was not run.
    device = {"name": "compiled for sm_90", "kind": "compiled", "capability": "sm_90"}
    records = [record | {"device": device} for record in synthetic.compiled()]
    said = cite.methods(Run(device["name"], Path("x"), records))
    assert f"to compile {len(records)} kernels for sm_90" in said and "nothing was run" in said
