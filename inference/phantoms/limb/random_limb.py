"""Limbs and masses drawn from a seed, and the grid that images them."""

import numpy as np
from numpy.typing import NDArray

from inference.phantoms.limb.anatomy import LimbPhantom
from inference.phantoms.limb.tissues import BLOOD, MASSES, NECROTIC_TISSUE
from inference.phantoms.scene import Lobe, axial_grid
from inference.phantoms.signals import Tissue
from inference.volumes.geometry import Geometry


def limb_phantom(
    seed: int, *, diameter: tuple[float, float] = (20.0, 150.0), length: float = 60.0, kind: str | None = None
) -> LimbPhantom:
    """Draw a limb from `seed`.

    The largest diameter of its mass lies in `diameter` (mm, log-uniform). The mass is centred within `length` mm along
    z about the origin. `kind` names one of MASSES; None draws one.
    """
    rng = np.random.default_rng(seed)
    radius = float(rng.uniform(58.0, 92.0))
    bone_radius = float(rng.uniform(11.0, 16.0))
    bone_angle, bone_offset = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.18) * radius
    bone = (float(bone_offset * np.cos(bone_angle)), float(bone_offset * np.sin(bone_angle)), bone_radius)
    count = int(rng.integers(7, 13))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(-0.25, 0.25, count)
    distances = radius * rng.uniform(0.35, 0.75, count)
    muscles = np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)
    name, tissue = _mass_tissue(rng, kind)
    lobes = _lobes(rng, radius, bone, diameter, length)
    smallest = min(min(lobe.axes) for lobe in lobes)
    return LimbPhantom(
        seed=seed,
        radius=radius,
        taper=float(rng.uniform(-0.06, 0.12)),
        tilt=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
        outline=tuple((float(rng.uniform(0, a)), float(rng.uniform(0, 2 * np.pi))) for a in (0.10, 0.04, 0.025)),
        fat_thickness=(float(rng.uniform(5.0, 20.0)), float(rng.uniform(0.0, 4.0)), float(rng.uniform(0, 2 * np.pi))),
        bone=(*bone, float(rng.uniform(3.0, 5.5))),
        muscles=muscles,
        muscle_signal=rng.uniform(0.9, 1.1, count),
        vessels=_vessels(rng, radius, bone),
        kind=name,
        mass_tissue=tissue,
        lobes=lobes,
        roughness=float(rng.uniform(0.0, 0.12)),
        inclusions=_inclusions(rng, name, lobes, smallest),
        septa=float(rng.uniform(0.4, 0.9)) if name == "lipomatous" else float(rng.choice([0.0, 0.3])),
        infiltration=float(rng.uniform(0.0, 3.0)),
    )


def limb_grid(
    shape: tuple[int, int, int] = (36, 192, 192), spacing: tuple[float, float, float] = (4.0, 1.15, 1.15),
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Geometry:  # fmt: skip
    """Return the axial grid of a usual T1w series about `centre` (LPS mm), or one of another shape and spacing."""
    return axial_grid(shape, spacing, centre)


def _mass_tissue(rng: np.random.Generator, kind: str | None) -> tuple[str, Tissue]:
    names = [name for name, *_ in MASSES]
    chance = np.array([often for _, often, *_ in MASSES])
    index = names.index(kind) if kind else int(rng.choice(len(names), p=chance / chance.sum()))
    name, _, low, high = MASSES[index]
    t = float(rng.uniform())
    return name, Tissue(
        *(a + t * (b - a) for a, b in zip(
            (low.t1, low.t2, low.pd, low.adc, low.fat), (high.t1, high.t2, high.pd, high.adc, high.fat), strict=True
        ))
    )  # fmt: skip


def _lobes(
    rng: np.random.Generator, radius: float, bone: tuple[float, float, float], diameter: tuple[float, float],
    length: float,
) -> tuple[Lobe, ...]:  # fmt: skip
    """Draw one to four overlapping ellipsoids beside the bone, longest along the limb."""
    long = float(np.exp(rng.uniform(np.log(diameter[0]), np.log(diameter[1])))) / 2
    across = np.clip(long * rng.uniform(0.5, 0.95, 2), 8.0, 0.52 * radius)
    angle = rng.uniform(0, 2 * np.pi)
    # The mass may touch the bone or bulge from the limb, but not sit on the axis.
    least = bone[2] + 0.75 * float(across.max()) + 2.0
    distance = rng.uniform(least, max(least + 2.0, radius - 0.6 * float(across.max())))
    centre = (
        float(bone[0] + distance * np.cos(angle)), float(bone[1] + distance * np.sin(angle)),
        float(rng.uniform(-0.5, 0.5) * length),
    )  # fmt: skip
    lobes = [Lobe(centre, (float(across[0]), float(across[1]), max(long, 8.0)), float(rng.uniform(0, np.pi)))]
    for _ in range(int(rng.integers(0, 4))):
        scale = rng.uniform(0.45, 0.75)
        shift = rng.normal(size=3)
        shift *= 0.6 * np.array(lobes[0].axes) / np.linalg.norm(shift)
        lobes.append(
            Lobe(
                tuple(float(v) for v in np.array(centre) + shift),  # type: ignore[arg-type]
                tuple(float(scale * a) for a in lobes[0].axes),  # type: ignore[arg-type]
                float(rng.uniform(0, np.pi)),
            )
        )
    return tuple(lobes)


def _inclusions(
    rng: np.random.Generator, kind: str, lobes: tuple[Lobe, ...], smallest: float
) -> tuple[tuple[Lobe, Tissue], ...]:
    """Draw necrosis and blood inside the mass; small masses have none."""
    if smallest < 10.0:
        return ()
    main = lobes[0]
    found = []
    for _ in range(int(rng.integers(0, 4))):
        tissue = BLOOD if rng.uniform() < (0.7 if kind == "haemorrhagic" else 0.2) else NECROTIC_TISSUE
        shift = rng.normal(size=3)
        shift *= rng.uniform(0, 0.5) * np.array(main.axes) / np.linalg.norm(shift)
        scale = rng.uniform(0.15, 0.5)
        centre = np.array(main.centre) + shift
        found.append(
            (
                Lobe(tuple(map(float, centre)), tuple(float(scale * a) for a in main.axes), main.turn),  # type: ignore[arg-type]
                tissue,
            )
        )
    return tuple(found)


def _vessels(rng: np.random.Generator, radius: float, bone: tuple[float, float, float]) -> NDArray[np.float64]:
    """Draw a bundle of an artery and a vein beside the bone, and a few smaller vessels."""
    angle = rng.uniform(0, 2 * np.pi)
    bundle = np.array(bone[:2]) + (bone[2] + 12.0) * np.array([np.cos(angle), np.sin(angle)])
    rows = [(*bundle, rng.uniform(2.5, 4.0)), (*(bundle + rng.uniform(5, 8, 2)), rng.uniform(2.5, 4.5))]
    for _ in range(int(rng.integers(1, 5))):
        a, d = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.9) * radius
        rows.append((d * np.cos(a), d * np.sin(a), rng.uniform(1.0, 2.0)))
    return np.array(rows, dtype=np.float64)
