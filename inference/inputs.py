"""What a series must be to feed one input of an application."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from inference.series import Kind

Modality = Literal["MR", "CT", "PT"]
BodyPart = Annotated[str, AfterValidator(lambda value: value.strip().upper())]


@dataclass(frozen=True)
class InputRule:
    """None and empty mean: anything."""

    name: str
    modality: Modality = "MR"
    kind: Kind | None = None
    dimension: Literal["2D", "3D"] | None = None
    minimum_slices: Annotated[int, Field(ge=1)] = 3
    contrast: bool | None = None
    fat_suppressed: bool | None = None
    body_parts: tuple[BodyPart, ...] = ()  # BodyPartExamined (PS3.16 annex L); a series that names none is not refused
    required: bool = True
