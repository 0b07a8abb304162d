"""Heat in the words of macOS."""

import pytest

from flows.machine import power

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("said, hot", [
    ("CPU_Scheduler_Limit \t= 100\nCPU_Available_CPUs \t= 8\nCPU_Speed_Limit \t= 62\n", True),
    ("CPU_Speed_Limit \t= 100\n", False),
    ("Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n", False),
    ("", None),
])  # fmt: skip
def test_what_pmset_says_is_understood(said, hot):
    found = power.heat_in_pmset(said)
    assert (found and found.hot) == hot
