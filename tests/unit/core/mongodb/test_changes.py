"""A change without commands cannot be made."""

from __future__ import annotations

import pytest

from selvedge.core.mongodb.changes import Change, IndexChange
from selvedge.core.unit import Risk


def test_a_change_without_commands_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Change("designs", Risk.ADDITIVE, None)
    with pytest.raises(TypeError, match="abstract"):
        IndexChange("designs", Risk.ADDITIVE, None, "n")
