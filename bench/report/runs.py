"""A device's run: the records that a report uses, and the other files of the device's folder."""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.cases.cases import CELLS, Case
from bench.cases.roofline import Limits, rates
from bench.records import limits, store
from bench.records.files import LIMITS
from bench.report import frames
from bench.report.starts import pooled
from bench.report.text import plain_values


@dataclass
class Run:
    """The records of one device that a report uses.

    ``aside`` maps a reason to the number of records that it leaves out.
    """

    name: str
    folder: Path
    records: list[store.Record]
    sources: list[Path] = field(default_factory=list)
    aside: dict[str, int] = field(default_factory=dict)

    def of(self, kind: str) -> list[store.Record]:
        """The records of one kind, one of ``schema.KINDS``."""
        return [record for record in self.records if record["kind"] == kind]

    def ok(self, kind: str) -> list[store.Record]:
        """The records of one kind that hold a measurement."""
        return [record for record in self.of(kind) if record["status"] == "ok"]

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the device's folder, None if no command wrote it."""
        path = self.folder / name
        if not path.exists():
            return None
        found: dict[str, Any] = plain_values(json.loads(path.read_text(encoding="utf-8")))
        return found

    @functools.cached_property
    def time(self) -> pd.DataFrame:
        """``frames.flat`` of the time records, computed once; do not change it in place.

        ``gbps`` is by today's formula, and so is ``floor_share`` where the folder has limits.
        """
        return frames.flat(self.of("time"), self._modelled)

    @functools.cached_property
    def limits(self) -> Limits | None:
        """The card's measured rates, None if they were not measured."""
        path = self.folder / LIMITS
        return limits.read(path) if path.exists() else None

    def _modelled(self, record: store.Record) -> dict[str, Any]:
        kept = {name: record[name] for name in ("gbps", "floor_share")}
        if record["status"] != "ok" or record["cell"] not in CELLS:
            return kept
        found = rates(Case.from_fields(record), record["median_ms"], self.limits)
        if self.limits is None:
            return kept | {"gbps": found["gbps"]}
        return {name: found[name] for name in kept}

    @functools.cached_property
    def error(self) -> pd.DataFrame:
        """``frames.errors`` of the error records, computed once."""
        return frames.errors(self.of("error"))

    @functools.cached_property
    def every(self) -> pd.DataFrame:
        """``frames.flat`` of the records of all kinds, computed once."""
        return frames.flat(self.records)

    @property
    def presets(self) -> list[str]:
        """The presets behind the records, from the runs' names (preset-code)."""
        names = dict.fromkeys(record["run_id"] for record in self.records)
        return list(dict.fromkeys(name.rsplit("-", 1)[0] for name in names if "-" in name))


def load(paths: Sequence[Path]) -> list[Run]:
    """The runs of these folders and files, those of one folder together.

    Raises:
        FileNotFoundError: for a path that does not exist or a folder without records.
        ValueError: if one folder holds the records of several devices.
    """
    sources: dict[Path, list[Path]] = {}
    for path in map(Path.resolve, paths):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; RUN is a folder or file of records")
        files = store.record_files(path) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} holds no records (*.jsonl, *.jsonl.gz)")
        sources.setdefault(report_folder(path), []).extend(files)
    runs = []
    for folder, files in sources.items():
        files = list(dict.fromkeys(file.resolve() for file in files))
        records = [plain_record(record) for file in files for record in store.read(file)]
        if not records:
            raise FileNotFoundError(f"{folder} holds no records, only empty files")
        devices = sorted({str(record["device"].get("name")) for record in records})
        if len(devices) > 1:
            raise ValueError(
                f"{folder} holds records of several devices ({', '.join(devices)}); a folder "
                "holds one device's"
            )
        kept, aside = latest_consistent(records)
        runs.append(Run(devices[0], folder, pooled(kept), files, aside))
    return runs


def plain_record(record: store.Record) -> store.Record:
    """A record with all its strings as plain text; its lists of numbers stay as they are."""
    return {
        name: value if name in ("samples_ms", "blocks") else plain_values(value)
        for name, value in record.items()
    }


def report_folder(path: Path) -> Path:
    """The folder of a run's report: the device's, or of a single file a new one of its name."""
    if path.is_dir():
        return path
    inside = path.parent.name == "records"
    return (path.parent.parent if inside else path.parent) / store.stem(path)


def latest_consistent(records: Sequence[store.Record]) -> tuple[list[store.Record], dict[str, int]]:
    """The newest record per question, for each kind and provider those of one state only.

    Of several states the one with most records of a kind is used, the newer on a tie, so that a
    short run after a change of code neither mixes with nor hides a long one, and providers that are
    compared are of one state; a provider without a success in it has the one with most records of
    its own. The same holds for versions of the provider within a state.

    Returns:
        The records to use, and the number of the others by the reason.
    """
    kept: list[store.Record] = []
    aside: dict[str, int] = {}
    main = {
        kind: frames.state(_largest_group(of_kind, frames.state)[0])
        for kind, of_kind in _grouped(records, lambda record: record["kind"]).items()
    }
    groups = _grouped(records, lambda record: (record["kind"], record["provider"]))
    for (kind, provider), members in groups.items():
        chosen = [record for record in members if frames.state(record) == main[kind]]
        if not any(record["status"] == "ok" for record in chosen):
            chosen = _largest_group(members, frames.state)
        versioned = [record for record in chosen if record["provider_version"] is not None]
        if versioned:
            same = _largest_group(versioned, lambda record: record["provider_version"])
            version = same[0]["provider_version"]
            chosen = [r for r in chosen if r["provider_version"] in (None, version)]
        if len(members) > len(chosen):
            others = len(members) - len(chosen)
            aside[f"{kind} of {provider}: measured with other code or versions"] = others
        latest = store.latest(sorted(chosen, key=lambda record: str(record["time"])))
        if len(chosen) > len(latest):
            repeated = "measured again later by the same code"
            aside[repeated] = aside.get(repeated, 0) + len(chosen) - len(latest)
        kept += latest
    return kept, aside


def _grouped(
    records: Iterable[store.Record], name: Callable[[store.Record], Any]
) -> dict[Any, list[store.Record]]:
    groups: dict[Any, list[store.Record]] = {}
    for record in records:
        groups.setdefault(name(record), []).append(record)
    return groups


def _largest_group(
    records: Sequence[store.Record], name: Callable[[store.Record], Any]
) -> list[store.Record]:
    """The largest group of records of equal name; of equally large ones the newest."""
    return max(
        _grouped(records, name).values(),
        key=lambda found: (len(store.latest(found)), max(str(r["time"]) for r in found)),
    )
