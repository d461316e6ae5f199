"""A figure laid out once and written in several formats.

Matplotlib lays a figure out anew for every file: texts are measured, ticks are found, every
artist is asked. Here the renderer of that one walk writes down what is drawn, in points, and each
file's own renderer is given the same list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.backend_bases import GraphicsContextBase, RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Bbox, TransformedPath

POINTS = 72.0  # per inch
# Draws one thing: the renderer, its pixels per point, and that scale as a transform.
Step = Callable[[Any, float, Affine2D], None]


def _copy(gc: GraphicsContextBase) -> GraphicsContextBase:
    found = GraphicsContextBase()
    found.copy_properties(gc)
    return found


def _own(renderer: Any, gc: GraphicsContextBase, scale: float, affine: Affine2D) -> Any:
    """A graphics context of the renderer's own kind, its clipping in the renderer's pixels."""
    found = renderer.new_gc()
    found.copy_properties(gc)
    rectangle = gc.get_clip_rectangle()
    if rectangle is not None:
        found.set_clip_rectangle(Bbox(rectangle.get_points() * scale))
    clip: Any = gc.get_clip_path()  # its stub says less than it returns
    path, transform = clip
    if path is not None:
        found.set_clip_path(TransformedPath(path, transform + affine))
    return found


class Recorder(RendererBase):
    """Writes down what a figure draws. Collections come as single paths, by the base class."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.steps: list[Step] = []

    def flipy(self) -> bool:
        return False

    def get_canvas_width_height(self) -> tuple[float, float]:
        return self.width, self.height

    def open_group(self, s: str, gid: str | None = None) -> None:
        self.steps.append(lambda renderer, scale, affine: renderer.open_group(s, gid))

    def close_group(self, s: str) -> None:
        self.steps.append(lambda renderer, scale, affine: renderer.close_group(s))

    def draw_path(self, gc: Any, path: Any, transform: Any, rgbFace: Any = None) -> None:
        gc, transform = _copy(gc), transform.frozen()

        def step(renderer: Any, scale: float, affine: Affine2D) -> None:
            own = _own(renderer, gc, scale, affine)
            renderer.draw_path(own, path, transform + affine, rgbFace)
            own.restore()

        self.steps.append(step)

    def draw_markers(
        self, gc: Any, marker_path: Any, marker_trans: Any, path: Any, trans: Any,
        rgbFace: Any = None,
    ) -> None:  # fmt: skip
        gc, marker_trans, trans = _copy(gc), marker_trans.frozen(), trans.frozen()

        def step(renderer: Any, scale: float, affine: Affine2D) -> None:
            own = _own(renderer, gc, scale, affine)
            renderer.draw_markers(
                own, marker_path, marker_trans + affine, path, trans + affine, rgbFace
            )
            own.restore()

        self.steps.append(step)

    def draw_text(
        self, gc: Any, x: float, y: float, s: str, prop: Any, angle: float,
        ismath: Any = False, mtext: Any = None,
    ) -> None:  # fmt: skip
        gc = _copy(gc)

        def step(renderer: Any, scale: float, affine: Affine2D) -> None:
            own = _own(renderer, gc, scale, affine)
            up = self.height - y if renderer.flipy() else y
            renderer.draw_text(own, x * scale, up * scale, s, prop, angle, ismath, mtext)
            own.restore()

        self.steps.append(step)

    def draw_image(self, gc: Any, x: float, y: float, im: Any, transform: Any = None) -> None:
        raise NotImplementedError("a replayed figure holds no images")


class Replay(Figure):
    """What another figure drew, to be saved as often as wanted."""

    def __init__(self, figure: Figure) -> None:
        super().__init__(figsize=tuple(figure.get_size_inches()))
        FigureCanvasAgg(self)
        figure.dpi = POINTS
        recorder = Recorder(figure.bbox.width, figure.bbox.height)
        figure.draw(recorder)
        self.steps = recorder.steps

    def draw(self, renderer: Any) -> None:
        scale = self.dpi / POINTS
        affine = Affine2D().scale(scale)
        for step in self.steps:
            step(renderer, scale, affine)
