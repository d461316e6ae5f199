"""What a campaign of few minutes gets done, on a simulated clock."""

from pathlib import Path

import pytest

from bench.records.provenance import ROOT
from tests.helpers import simulated_campaign


def documented() -> dict[float, str]:
    """The rows of the table in bench/README.md by their minutes."""
    text = (ROOT / "bench" / "README.md").read_text()
    begin = "<!-- from tests/helpers/simulated_campaign.py -->"
    table = text.partition(begin)[2].partition("<!-- end -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    return {float(line.split("|")[1]): line for line in rows}


@pytest.mark.parametrize("minutes", [3.0, 6.0, 9.0])
def test_a_call_of_minutes_gets_as_far_as_documented_and_no_longer(minutes: float, tmp_path: Path):
    done = simulated_campaign.run(minutes, tmp_path / "card.tar.gz")
    assert done.seconds <= minutes * 60
    assert simulated_campaign.row(minutes, done) == documented()[minutes]


@pytest.mark.parametrize("minutes", [2.0, 4.5, 15.0, 60.0])
def test_no_call_takes_longer_than_its_minutes(minutes: float, tmp_path: Path):
    done = simulated_campaign.run(minutes, tmp_path / "card.tar.gz")
    assert 0.9 * minutes * 60 <= done.seconds <= minutes * 60
    assert done.cases["first-contact"][0] > 5


def test_a_second_call_goes_on_where_the_first_ended(tmp_path: Path):
    file = tmp_path / "card.tar.gz"
    first, second = (simulated_campaign.run(3.0, file) for _ in range(2))
    assert second.checks > first.checks
    assert second.cases["first-contact"] == (20, 20) and second.cases["campaign"][0] > 0
