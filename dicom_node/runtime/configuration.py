"""Building blocks of the configuration: the section, and the types of values that several sections have."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LONGEST_SECONDS = 31 * 24 * 3600.0


def valid_ae_title(value: str) -> str:
    """Return `value` without padding. Raise ValueError unless it is an AE title.

    PS3.5 table 6.2-1 allows 1 to 16 characters of the default repertoire, no backslash, and not spaces alone.
    """
    title = value.strip()
    if not 1 <= len(title) <= 16 or "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return title


AETitle = Annotated[str, AfterValidator(valid_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def anchored(self, folder: Path) -> Self:
        """Return a copy with absolute paths: relative ones start at `folder`."""
        paths = {key: (folder / value).resolve() for key, value in self if isinstance(value, Path)}
        return self.model_copy(update=paths)  # keeps what was validated
