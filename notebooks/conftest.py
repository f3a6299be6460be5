"""For `pytest --nbmake notebooks/`: what cannot run here is skipped, with what it needs."""

import pytest
from install import installed, pins
from opening import NEEDS


def pytest_collection_modifyitems(items):
    for item in items:
        groups = NEEDS.get(item.path.stem, ())
        absent = [name for group in groups for name in pins(group) if not installed(name)]
        if absent:
            reason = f"{', '.join(absent)} not installed: see What you'll need"
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(0))  # its cells have a limit of their own
