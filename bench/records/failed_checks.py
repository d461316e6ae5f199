"""The outcomes of a check of the kernels, the kernels that a failed one makes suspect, and the
measurements that then do not count. Imports no torch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cases.cases import Case
from bench.cases.numbers import number_type
from bench.records import schema, store

PASS, FAIL, LEFT_OUT, NOT_DONE = "pass", "FAIL", "left out", "not done"
KEPT_FIELDS = (
    "run_id", "kind", "provider", "provider_version", "mode", "plan", "device", "software", "code",
    "commit", "dirty", "seed", "regime",
)  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """Kernels that a failed check found wrong; None is any loop, mode or number type.

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

    def is_used_by(self, case: Case, plan: Mapping[str, Any]) -> bool:
        """Whether our kernels, called on this case with this plan, are among these."""
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
    case: Case, plan: Mapping[str, Any] | None, suspects: Iterable[Suspect]
) -> str | None:
    """Why a measurement of this call would not count, or None. Only our kernels have a plan."""
    if plan is None:
        return None
    for suspect in suspects:
        if suspect.is_used_by(case, plan):
            return f"not measured, because a check of these kernels failed: {suspect.check}"
    return None


def replacements(
    records: Iterable[schema.Record], suspects: Sequence[Suspect], time: str
) -> list[schema.Record]:
    """Records with status "incorrect" that replace those of suspect kernels.

    Args:
        records: of one run.
        time: of the new records.
    """
    found = []
    for record in store.latest(records):
        if record["status"] != "ok" or record["plan"] is None:
            continue
        case = Case.from_fields(record)
        why = why_not_measured(case, record["plan"], suspects)
        if why is not None:
            fields = case.fields() | {name: record[name] for name in KEPT_FIELDS}
            found.append(schema.new_record(**fields, status="incorrect", reason=why, time=time))
    return found


def to_json(suspects: Iterable[Suspect]) -> list[dict[str, Any]]:
    return [asdict(suspect) for suspect in suspects]


def from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Suspect, ...]:
    return tuple(Suspect(**row) for row in rows)
