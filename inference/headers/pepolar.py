"""Images of GE that are stored upside down, although their headers place them as if they were not.

The research sequence epi_pepolar acquires volumes with both polarities of phase encoding in one series, and stores the
reversed ones with the order of their rows reversed. Position and orientation do not tell.
"""

from pydicom.dataset import Dataset

from inference.headers.private import PrivateElements

SEQUENCE = (0x0019, "GEMS_ACQU_01", 0x9C, "GE")
INTERNAL_SEQUENCE = (0x0019, "GEMS_ACQU_01", 0x9E, "GE")
SCHEME = (0x0019, "GEMS_ACQU_01", 0xB3, "DS", "GE")  # user data 12
FORWARD, REVERSED = 0, 1  # 2 and 3 alternate; 2 is the default
NAME = "epi_pepolar"


def stored_upside_down(ds: Dataset, private: PrivateElements) -> str:
    """Return the reason why the rows of an image may be in reverse order; an empty text if they are not.

    `private` are the private elements of `ds`.
    """
    names = (private.text(*SEQUENCE), private.text(*INTERNAL_SEQUENCE), str(ds.get("PulseSequenceName") or ""))
    if not any(NAME in name.lower() for name in names):
        return ""
    scheme = private.numbers(*SCHEME)
    if scheme and scheme[0] == FORWARD:
        return ""
    which = "all" if scheme and scheme[0] == REVERSED else "every second one"
    return (
        f"is of the GE sequence {NAME}, which stores reversed volumes ({which}) upside down without telling where; "
        "they cannot be placed in the patient"
    )
