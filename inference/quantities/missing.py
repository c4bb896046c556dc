"""A number that could not be determined, and the reason."""

from dataclasses import dataclass

from inference.contract.findings import Code


@dataclass(frozen=True)
class Missing:
    """The reason why a number is missing.

    `code` is for the report (PS3.16 CID 42: MEASUREMENT_FAILURE, NOT_ATTEMPTED or OUT_OF_RANGE of `findings`), `reason`
    is text for its reader.
    """

    code: Code
    reason: str
