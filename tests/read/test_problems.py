"""Problems that a person should look at: states of rows, what was told as it happened, silent peers."""

from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.read.problems import ADVICE, silent_peers
from storage.records.problems import ProblemKind, SendingDay

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)  # a Monday
MORNING, EVENING = timedelta(hours=7), timedelta(hours=18)


def days(peer: str, *before: int) -> list[SendingDay]:
    """The peer sent from 7 to 18 o'clock on these days before NOW's."""
    midnight = NOW.replace(hour=0)
    return [
        SendingDay(peer, midnight - timedelta(days=n) + MORNING, midnight - timedelta(days=n) + EVENING)
        for n in sorted(before, reverse=True)
    ]


@pytest.mark.parametrize(
    ("sent", "is_silent"),
    [
        (range(1, 15), False),  # it sent yesterday
        (range(2, 15), True),  # daily, but not yesterday
        ([n for n in range(3, 25) if (n % 7) not in (1, 2)], False),  # no Sundays and Saturdays, as on every Monday
        ([n for n in range(5, 25) if (n % 7) not in (1, 2)], True),
        (range(2, 6), False),  # too new to have habits
    ],
)
def test_a_peer_is_silent_when_it_was_never_silent_for_so_long(sent: list[int], is_silent: bool) -> None:
    found = list(silent_peers([*days("A", 1, *range(3, 12)), *days("MR1", *sent)], (), NOW))
    assert [problem.key for problem in found] == (["MR1"] if is_silent else [])
    assert list(silent_peers(days("MR1", *sent), {"CT1"}, NOW)) == []  # a peer that is configured no longer


def test_every_kind_says_what_to_do() -> None:
    assert set(ADVICE) == set(ProblemKind)
