"""Figures against stored pictures, so that no change of look is accidental.

After a wanted change: ``python -m tests.report.test_images`` draws the stored pictures anew; look
at them before committing.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bench.records import limits
from bench.report import frames
from bench.report.device import compiler
from bench.report.error import exactness, figures
from bench.report.error import maps as error_maps
from bench.report.runs import Run
from bench.report.speed import figures as speed_figures
from bench.report.speed import maps as speed_maps
from bench.report.speed import pareto_figure, roofline
from bench.report.style import looks
from bench.report.style.sheet import Job
from tests.helpers import synthetic

BASELINE = Path(__file__).parent / "baseline"
DPI = 100
# Root mean square difference of grey values (0 to 255), over blocks of 4 x 4. The same matplotlib
# gives 0, on another processor a little more; a missing curve gives 7.7. Another minor version sets
# text differently (3.10 against 3.11: 11 to 16) and is not compared.
TOLERANCE = 2.0


def jobs() -> dict[str, Job]:
    """One figure of each kind, by the stored picture's name."""
    run = Run(synthetic.DEVICE, Path("x"), synthetic.small())
    limited = Run(synthetic.DEVICE, Path("x"), run.records)
    limited.limits = limits.of_floor(synthetic.floor())
    typed = Run(synthetic.DEVICE, Path("x"), synthetic.number_types())
    lines, dots = list(speed_figures.line_jobs(run.time)), list(figures.category_jobs(run.error))
    maps = {job.args[1]: job for job in speed_maps.speedup_jobs(run.time)}  # type: ignore[attr-defined]
    return {
        "throughput": lines[0],
        "step": lines[1],
        "growth": next(speed_figures.growth_jobs(run.time)),
        "speedup": maps["ours-stepwise"],
        "pareto": list(pareto_figure.jobs(typed))[-1],
        "roofline": next(roofline.jobs(limited)),
        "error": next(figures.curve_jobs(run.error)),
        "dtype": next(job for job in dots if job.args[2] == "number"),  # type: ignore[attr-defined]
        "regime": next(job for job in dots if job.args[2] == "regime"),  # type: ignore[attr-defined]
        "effects": dots[-1],
        "error-map": next(error_maps.jobs(wide_errors())),
        "resources": next(compiler.jobs(run)),
        "activations": lambda folder: exactness.activations(synthetic.activations(), folder),
        "training": lambda folder: exactness.training(synthetic.training(), folder),
    }


def wide_errors() -> pd.DataFrame:
    """Errors over more H than fit in two maps side by side, with a failure and a gap."""
    cases = synthetic.cases(cell=["lstm", "gru"], dtype="bf16", B=[1, 3, 17], T=4,
                            H=[5, 16, 32, 64, 128, 1024], **{"pass": "fwd+bwd"})  # fmt: skip
    found = [
        synthetic.failed(case, "ours", "oom", "out of memory", kind="error")
        if case.H == 1024 and case.B == 17
        else synthetic.erroneous(case, "ours")
        for case in cases
        if (case.B, case.H) != (3, 32)
    ]
    return frames.errors(found)


def draw(job: Job, folder: Path) -> Path:
    """The figure as a small PNG."""
    looks.apply_style()
    matplotlib.rcParams["savefig.dpi"] = DPI
    return next(path for path in job(folder) if path.suffix == ".png")


def difference(one: Image.Image, two: Image.Image) -> float:
    """Root mean square difference of grey values over 4 x 4 blocks; infinite for other sizes."""
    if one.size != two.size:
        return float("inf")
    small = (one.width // 4, one.height // 4)
    a, b = (
        np.asarray(image.convert("L").resize(small, Image.Resampling.BOX), float)
        for image in (one, two)
    )
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize("name", list(jobs()))
def test_a_figure_looks_as_it_did(name, tmp_path):
    stored = BASELINE / f"{name}.png"
    drawn = draw(jobs()[name], tmp_path)
    with Image.open(stored) as before, Image.open(drawn) as now:
        drew, here = str(before.info.get("Software")), matplotlib.__version__
        if drew.split(".")[:2] != here.split(".")[:2]:
            pytest.skip(f"the stored pictures are matplotlib {drew}'s, this is {here}")
        assert difference(before, now) <= TOLERANCE, f"{drawn} differs from {stored}"


def test_a_missing_curve_is_seen(tmp_path):
    """The tolerance is below the difference that one provider's curve makes."""
    job = jobs()["throughput"]
    rows, *rest = job.args  # type: ignore[attr-defined]
    less = rows[rows["provider"] != "ours-gemm"]
    drawn = draw(lambda folder: job.func(less, *rest, folder), tmp_path)  # type: ignore[attr-defined]
    with Image.open(BASELINE / "throughput.png") as before, Image.open(drawn) as now:
        assert difference(before, now) > 2 * TOLERANCE


def main() -> None:
    """Draw the stored pictures anew."""
    import tempfile

    BASELINE.mkdir(exist_ok=True)
    for name, job in jobs().items():
        with tempfile.TemporaryDirectory() as folder:
            picture, info = Image.open(draw(job, Path(folder))), PngInfo()
            info.add_text("Software", matplotlib.__version__)
            picture.save(BASELINE / f"{name}.png", optimize=True, pnginfo=info)
        print(BASELINE / f"{name}.png", file=sys.stderr)


if __name__ == "__main__":
    main()
