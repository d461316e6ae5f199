"""What a plugin registers in one test is gone in the next."""

import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest

import reference
from bench import providers
from bench.cases import cases


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    providers.load()
    with patch.dict(providers.PROVIDERS), patch.dict(cases.CELLS), patch.dict(reference.CELLS):
        yield
    for name in [name for name in sys.modules if name.startswith("bench_plugin_")]:
        del sys.modules[name]
