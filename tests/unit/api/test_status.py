"""A status always fits the bounds of its CRD."""

from __future__ import annotations

from selvedge.api.databaseschema import DatabaseSchemaStatus
from selvedge.api.migrationrun import MigrationRunStatus
from selvedge.api.status import fit


def test_a_long_text_is_cut_and_says_so():
    status = fit(DatabaseSchemaStatus, {"conditions": [{"type": "Ready", "message": "x" * 5000}]})
    message = status["conditions"][0]["message"]
    assert len(message) == 4096
    assert message.endswith("x…")


def test_a_long_list_is_cut():
    objects = [{"kind": "role", "name": f"r{number}"} for number in range(150)]
    assert fit(DatabaseSchemaStatus, {"notReady": objects})["notReady"] == objects[:100]


def test_what_fits_stays_as_it_is():
    status = {
        "observedGeneration": 3,
        "objects": {"ready": 61, "waiting": 1, "failed": 0},
        "plan": None,
        "lastDrift": {"time": "2026-11-20T10:00:00Z", "objects": 2},
        "conditions": [{"type": "Ready", "status": "True", "reason": "Verified", "message": ""}],
    }
    assert fit(DatabaseSchemaStatus, status) == status


def test_parts_of_parts_are_cut_too():
    error = {"file": "a.sql", "line": 3, "message": "e" * 9000}
    status = fit(MigrationRunStatus, {"migrations": [{"version": "1", "error": error}]})
    assert len(status["migrations"][0]["error"]["message"]) == 4096


def test_what_the_api_server_would_drop_is_left_out():
    assert fit(DatabaseSchemaStatus, {"unknown": 1, "pending": 2}) == {"pending": 2}
