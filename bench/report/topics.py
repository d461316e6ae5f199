"""The subjects of a report, in the order in which a device's page has them."""

from bench.report.device import checks, compiler, floor
from bench.report.error import topic as error
from bench.report.speed import energy
from bench.report.speed import topic as speed

TOPICS = (
    checks.TOPIC,
    speed.TOPIC,
    energy.TOPIC,
    floor.TOPIC,
    error.TOPIC,
    compiler.TOPIC,
    checks.NOT_MEASURED,
)
