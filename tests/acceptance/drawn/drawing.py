"""The draw: study after study from a seed, each a base with one disturbance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.acceptance.drawn.bases import Base
from tests.acceptance.drawn.disturbances import DISTURBANCES, Plan, draft


@dataclass(frozen=True)
class DrawnStudy:
    """A study that was drawn. `name` is the seed that draws it again, and what it is."""

    seed: str
    base: str
    disturbance: str
    plan: Plan

    @property
    def name(self) -> str:
        return f"{self.seed} ({self.base}, {self.disturbance})"


def draw(seed: str, makers: Sequence[tuple[int, Callable[[], Base]]]) -> DrawnStudy:
    """Draw the study of a seed. The same seed and the same bases give the same study, UIDs included."""
    random = Random(seed)
    disturbance = random.choice(DISTURBANCES)
    while True:
        (make,) = random.choices([make for _, make in makers], [weight for weight, _ in makers])
        base = make()
        plan = disturbance(draft(base, seed, random))
        if plan is not None:
            return DrawnStudy(seed, base.name, disturbance.__name__, plan)
