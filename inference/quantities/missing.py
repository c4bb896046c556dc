"""A number that could not be had, and why."""

from dataclasses import dataclass

from inference.contract.findings import Code


@dataclass(frozen=True)
class Missing:
    """`code` (PS3.16 CID 42: MEASUREMENT_FAILURE, NOT_ATTEMPTED, OUT_OF_RANGE of `findings`) is for the
    report, `reason` a sentence for its reader.
    """

    code: Code
    reason: str
