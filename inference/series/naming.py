"""Names by which people know a series: its number and description, as the scanner shows them, instead of its UID."""

LONGEST_DESCRIPTION = 64  # characters; LO (PS3.5 6.2) allows no more, but not every scanner knows


def series_label(number: int | None, description: str) -> str:
    """Return number and description, as in `5 'T1 TSE tra'`; an empty text if the series has neither.

    The description is free text of the scanner: control characters are escaped, and a long one is shortened.
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(description.split())
    )
    if len(shown) > LONGEST_DESCRIPTION:
        shown = f"{shown[: LONGEST_DESCRIPTION - 3]}..."
    return " ".join(filter(None, ["" if number is None else str(number), f"'{shown}'" if shown else ""]))


def name_of_series(number: int | None, description: str) -> str:
    """Name a series in a sentence for people, as in `series 5 'T1 TSE tra'`. No log may hold the description."""
    label = series_label(number, description)
    return f"series {label}" if label else "a series without number"
