"""A simulated GPU board: its clock, an energy counter that moves in steps, and calls on it."""

from collections import deque

from bench.measure.energy import Meter

IDLE_WATTS = 80.0


class Board:
    """A board that idles at ``IDLE_WATTS``; its clock moves only when somebody waits.

    Args:
        period: seconds between two updates of the counter.
        lag: seconds by which the counter's power is late.
        start: what the counter shows at first, in joules.
    """

    def __init__(self, period: float = 0.05, lag: float = 0.0, start: float = 5e4) -> None:
        self.period, self.lag, self.start = period, lag, start
        self.now = 0.0137  # updates and waits do not begin together
        self.watts = IDLE_WATTS
        self._joules = 0.0  # really used until `now`
        self._used = deque([(self.now, 0.0)], 400)  # times, and the joules until each

    @property
    def meter(self) -> Meter:
        return Meter(self.read, lambda: self.now, self.wait)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._joules += seconds * self.watts
        self._used.append((self.now, self._joules))

    def read(self) -> float:
        """The joules at the last update, in whole mJ as NVML has them."""
        update = self.now // self.period * self.period - self.lag
        later = self._used[-1]
        for earlier in reversed(self._used):
            if earlier[0] < update:
                break
            later = earlier
        (t0, e0), (t1, e1) = earlier, later
        used = e1 if t1 <= t0 else e0 + (e1 - e0) * (update - t0) / (t1 - t0)
        return self.start + round(used * 1e3) / 1e3


class SimulatedCalls:
    """Calls that take ``seconds`` at ``watts`` on a board; work of ``bench.measure.energy``."""

    def __init__(self, board: Board, watts: float, seconds: float) -> None:
        self.board, self.watts, self.seconds = board, watts, seconds
        self.busy_seconds, self.finished = 0.0, 0
        self._seen = board.now

    def advance(self) -> int:
        if self.board.watts == self.watts:
            self.busy_seconds += self.board.now - self._seen
        self.board.watts, self._seen = self.watts, self.board.now
        return int(self.busy_seconds / self.seconds)

    def finish(self) -> None:
        self.board.watts = IDLE_WATTS
        self.finished += 1

    def check(self) -> None:
        pass
