"""A results tree of one device, with words for records."""

from pathlib import Path


def make_records(
    results: Path, *lines: str, name: str = "campaign-1", device: str = "card"
) -> None:
    """Add lines to a device's record file, and the pages that a report would write."""
    path = results / device / "records" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)
    (results / device / "README.md").write_text("page")
    (results / "index.html").write_text("page of all")


def records_in(results: Path, name: str = "campaign-1", device: str = "card") -> list[str]:
    return (results / device / "records" / f"{name}.jsonl").read_text().split()
