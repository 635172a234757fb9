"""Every error of the engine has its HTTP status; 5xx is kept for the engine's own faults."""

from __future__ import annotations

import pytest

from runtime.api.statuses import STATUS, status_of
from runtime.errors import EXIT_MODEL, EXIT_PLAN, EngineError
from tests.error_codes import error_codes

CODES = error_codes()


def _only_of_the_command_line(files: set[str]) -> bool:
    return all(file.startswith("runtime/cli/") for file in files)


def test_the_codes_are_found() -> None:
    assert len(CODES) > 100
    assert {"requantization_refused", "plan_duplicate_key", "bad_gguf", "hub_error"} <= CODES.keys()


def test_each_code_that_a_request_can_meet_has_its_status() -> None:
    unknown = {code: files for code, files in CODES.items() if code not in STATUS}
    missing = {code: sorted(files) for code, files in unknown.items() if not _only_of_the_command_line(files)}
    at_start = {"address_in_use", "address_not_available"}  # before there is anybody to answer
    assert missing.keys() - at_start == set(), f"runtime/api/statuses.py lacks {missing}"


def test_no_status_is_of_a_code_that_nobody_raises() -> None:
    assert STATUS.keys() - CODES.keys() == set()


@pytest.mark.parametrize("room", ["compiler/plan", "compiler/quantize", "compiler/model"])
def test_what_a_plan_or_a_model_can_be_refused_for_is_no_fault_of_the_engine(room) -> None:
    ours = {"plan_unreadable", "numeric_error"}
    found = {code: STATUS[code] for code in error_codes(room) if code not in ours}
    assert {code: status for code, status in found.items() if status >= 500} == {}


def test_a_code_of_another_package_goes_by_its_class() -> None:
    assert status_of(EngineError("their_code", "", exit_code=EXIT_PLAN)) == 400
    assert status_of(EngineError("their_code", "", exit_code=EXIT_MODEL)) == 409
    assert status_of(EngineError("their_code", "")) == 500
