"""For `pytest --nbmake notebooks/`: what cannot run here is skipped, with what it needs."""

import pytest
from install import absent
from opening import LANGUAGES, NEEDS

collect_ignore = list(LANGUAGES)  # the same code, but for `pytest --nbmake notebooks/es`


def pytest_collection_modifyitems(items):
    for item in items:
        missing = absent(NEEDS.get(item.path.stem, ()))
        if missing:
            reason = f"{', '.join(missing)} not installed: see What you'll need"
            item.add_marker(pytest.mark.skip(reason=reason))
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.timeout(0))  # its cells have a limit of their own
