"""The real series that objects are made from, and findings with everything a report can say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from inference.contract.concepts import DIFFUSION_ANALYSIS
from inference.contract.findings import (
    MEASUREMENT_FAILURE,
    Algorithm,
    Code,
    Evaluation,
    Findings,
    Measurement,
    ParametricMap,
    TimePoint,
)
from inference.volumes.reading import read_volume, read_volumes
from inference.volumes.volume import Volume
from storage.blobs import Blob
from tests.objects.sources import blobs, findings

LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
ADC = Code("113041", "DCM", "Apparent Diffusion Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
SEVERITY = Code("272141005", "SCT", "Severity")
MODERATE = Code("6736007", "SCT", "Moderate")
THIGH = Code("68367000", "SCT", "Thigh")
MM = Code("mm", "UCUM", "millimeter")
UM2_S = Code("um2/s", "UCUM", "square micrometer per second")


@dataclass(frozen=True)
class Case:
    """A series below the test data. `read` gives the volume, or raises InputRefused as the node would."""

    name: str
    folder: str
    read: Callable[[Sequence[Blob]], Volume] = read_volume

    def paths(self, test_data: Path) -> list[Path]:
        return sorted(path for path in (test_data / self.folder).rglob("*") if path.is_file())


def _first_volume(blobs: Sequence[Blob]) -> Volume:
    """Of a series that holds several."""
    return read_volumes(blobs)[0]


CASES = [
    Case("Siemens classic, sagittal, HFDR, gaps", "mr/siemens_prisma_t1_sag_HFDR"),
    Case("Siemens Enhanced, sagittal", "mr/siemens_xa30_study/5_anat-T1w_acq-tfl"),
    Case("Philips classic, oblique, 170 slices", "mr/philips_elition_mprage_classic"),
    Case("GE classic, oblique, ADC", "mr/ge_hdxt_prostate_adc"),
    Case("Canon Enhanced, doubly oblique, 520 frames", "mr/canon_galan_dti_enhanced_oblique", _first_volume),
    Case("Hitachi classic, no frame of reference", "mr/small/hitachi_anatomical_001"),
    Case("PMOD classic, anisotropic pixels", "mr/small/generic_anatomical_002_non_isotropic"),
    Case("UIH tiled", "mr/uih_umr770_dti_vframe", _first_volume),
    Case("Siemens mosaic", "mr/siemens_prisma_epi_mosaic", _first_volume),
    Case("Sarcoma STS_001, Siemens", "sarcoma/STS_001/MR_T1"),
    Case("Sarcoma STS_002, Philips", "sarcoma/STS_002/MR_T1"),
    Case("Sarcoma STS_003, GE", "sarcoma/STS_003/MR_T1"),
]


def rich_findings(volume: Volume, *, overlap: bool = True) -> Findings:
    """Two masses, with a site, several values, one that failed, and an evaluation; a value of the whole study; and a
    map, with voxels that have no value."""
    one, two = blobs(volume)
    mask = two.mask.copy()
    mask[tuple(np.argwhere(one.mask)[0])] = overlap
    diffusion = np.abs(volume.array).astype(np.float32)
    adc = float(diffusion[one.mask].mean())
    diffusion[:, 0] = np.nan
    one = replace(
        one,
        anatomic_region=THIGH,
        measurements=(
            *one.measurements,
            Measurement(LONG_AXIS, 31.5, MM),
            Measurement(ADC, adc, UM2_S, MEAN),
            Measurement(SHORT_AXIS, None, MM, missing=MEASUREMENT_FAILURE),
        ),
        evaluations=(Evaluation(SEVERITY, MODERATE),),
    )
    two = replace(two, mask=mask, anatomic_region=THIGH)
    return replace(
        findings(volume, (one, two)),
        algorithm=Algorithm("ConformanceNet", "1.0", "Test maker", "cd" * 32, "simulated phantoms"),
        measurements=(Measurement(Code("122157", "DCM", "Probability"), 0.42, Code("1", "UCUM", "no units")),),
        maps=(ParametricMap("ADC", ADC, UM2_S, diffusion, (volume,), DIFFUSION_ANALYSIS),),
        time_point=TimePoint("baseline", 1, "T0", "AI-1"),
        notes=("Only one sequence was available.",),
    )
