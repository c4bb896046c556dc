"""The DICOM of a simulated limb, and the truth about it."""

from dataclasses import dataclass
from typing import Any

from dicom_node.demo.simulator.phantom_study import PhantomStudy
from inference.contract.series_input import SeriesInput
from storage.blobs import file_blobs


@dataclass(frozen=True)
class Examined:
    study: PhantomStudy
    truth: dict[str, Any]

    def inputs(self, *names: str) -> dict[str, SeriesInput]:
        return {name: SeriesInput(name, "", file_blobs(self.study.series[name].paths)) for name in names}
