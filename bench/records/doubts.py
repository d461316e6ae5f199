"""What a failed check makes doubtful, so that it costs what it concerns and no more. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cases.cases import Case
from bench.cases.numbers import number_type
from bench.records import schema, store


@dataclass(frozen=True)
class Doubt:
    """A loop of a cell that a check found wrong; None means all of them.

    Args:
        check: the check's name.
        cell: a name in ``bench.cases.cases.CELLS``.
        loop: "forward" or "backward".
        mode: of ``kernels.plan.MODES``, as the plan chose it.
        number: a dtype with its precision, as ``numbers.number_type`` writes it.
    """

    check: str
    cell: str
    loop: str | None = None
    mode: str | None = None
    number: str | None = None

    def __str__(self) -> str:
        words = (self.cell, self.loop or "both loops", self.mode or "every mode", self.number)
        return " ".join(word for word in words if word)

    def concerns(self, case: Case, plan: Mapping[str, Any]) -> bool:
        """Whether a call of our kernels on this case, run by this plan, uses that loop."""
        modes = {"forward": plan["mode"]}
        if case.pass_ == "fwd+bwd":
            modes["backward"] = plan["backward"]["mode"]
        return (
            case.cell == self.cell
            and self.number in (None, number_type(case.dtype, case.precision))
            and any(
                self.loop in (None, loop) and self.mode in (None, mode)
                for loop, mode in modes.items()
            )
        )


def why_not_measured(
    case: Case, plan: Mapping[str, Any] | None, doubts: Iterable[Doubt]
) -> str | None:
    """Why a time of this call would not count, or None. Only our kernels have a plan."""
    if plan is None:
        return None
    for doubt in doubts:
        if doubt.concerns(case, plan):
            return f"not measured, because a check of these kernels failed: {doubt.check}"
    return None


def withdraw(
    records: Iterable[store.Record], doubts: Sequence[Doubt], time: str
) -> list[store.Record]:
    """For each of these records that was measured before a check failed, one that takes its place.

    Args:
        records: of one run.
        time: of the new records.
    """
    found = []
    for record in store.latest(records):
        if record["status"] != "ok" or record["plan"] is None:
            continue
        case = Case.from_fields(record)
        why = why_not_measured(case, record["plan"], doubts)
        if why is not None:
            kept = ("run_id", "kind", "provider", "provider_version", "mode", "plan", "device",
                    "software", "code", "commit", "dirty", "seed", "regime")  # fmt: skip
            found.append(
                schema.new_record(
                    **case.fields() | {name: record[name] for name in kept},
                    status="incorrect", reason=why, time=time,
                )
            )  # fmt: skip
    return found


def to_json(doubts: Iterable[Doubt]) -> list[dict[str, Any]]:
    return [asdict(doubt) for doubt in doubts]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Doubt, ...]:
    return tuple(Doubt(**row) for row in rows)
