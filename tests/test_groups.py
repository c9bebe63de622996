"""What belongs to one process of pytest-xdist at a time goes to one: a server that is counted, the node, the pages."""

from __future__ import annotations

import pytest


@pytest.mark.xdist_group("together")
def test_a_group_stays_together(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("all tests run in one process, or groups are not asked for")
    assert request.node.nodeid.endswith("@together"), "pytest-xdist scatters groups with this pytest"
