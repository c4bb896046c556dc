"""Studies drawn at random from all test data, each with one disturbance: what must come of it is stated beforehand.

A failure names its seed. `DRAWN_SEEDS="drawn-7 drawn-9"` draws exactly these again.
"""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo.pacs.ports import free_port
from tests.acceptance.drawn.bases import makers
from tests.acceptance.drawn.disturbances import Trouble
from tests.acceptance.drawn.drawing import draw
from tests.acceptance.drawn.expectations import Outcome
from tests.acceptance.drawn.running import LIBFAKETIME, FailingDisk, FakeClock, SharedNode, no_trouble
from tests.conftest import REPOSITORY

HANGING_SECONDS = 4.0
ALL = range(200)
QUICK = (2, 3, 7, 11, 13, 17, 18, 19, 23, 32, 33, 37, 41, 48, 54, 60, 71, 85, 89, 127)  # the quickest of each kind


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    "numbers", [pytest.param(QUICK, id="twenty"), pytest.param(ALL, id="all", marks=pytest.mark.faults)]
)
def test_what_must_come_comes(tmp_path: Path, numbers: Sequence[int]) -> None:
    if not LIBFAKETIME.exists():
        pytest.skip("libfaketime is not installed: run tests/install-peers.sh")
    (tmp_path / "bases").mkdir()
    data = Path(os.environ.get("DICOM_NODE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    bases = makers(data if data.is_dir() else None, tmp_path / "bases")
    seeds = os.environ.get("DRAWN_SEEDS", "").split() or [f"drawn-{n}" for n in numbers]
    studies = [draw(seed, bases) for seed in seeds]
    clock = FakeClock(tmp_path)
    disk = FailingDisk(tmp_path)
    place = SharedNode(tmp_path, free_port(), {**clock.environment, **disk.environment})

    @contextmanager
    def step(offset: str) -> Iterator[None]:
        timer = threading.Timer(0.5, clock.set, [offset])  # in the middle of the sending
        timer.start()
        yield
        timer.join()

    @contextmanager
    def hanging() -> Iterator[None]:
        disk.hang()
        timer = threading.Timer(HANGING_SECONDS, disk.recover)
        timer.start()
        yield
        timer.join()

    troubles: dict[Trouble, Any] = {
        Trouble.NONE: no_trouble,
        Trouble.CLOCK_BACK: lambda: step("-1h"),
        Trouble.CLOCK_AHEAD: lambda: step("+30d"),
        Trouble.DISK_HANGS: hanging,
    }
    place.node.start()
    try:
        wrong = place.run(studies, troubles)
    finally:
        disk.recover()
        place.node.kill()
    outcomes = Counter(expected.outcome for study in studies for expected in study.plan.expected.values())
    if not os.environ.get("DRAWN_SEEDS"):
        assert outcomes[Outcome.RESULT] * 2 >= outcomes.total(), outcomes
    assert wrong == {}, "\n".join(f"{name}: {'; '.join(found)}" for name, found in wrong.items())
    assert "Traceback" not in place.node.log.read_text()
