"""Studies on disk that the simulated scanner can push."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydicom import dcmread

from dicom_node.dimse.scu import find_files
from storage.errors import Permanent


@dataclass(frozen=True)
class StudyFiles:
    """The files of one study or several, by Series Instance UID, in the order in which they were found."""

    series: Mapping[str, tuple[Path, ...]]
    ignored: int  # files that are not DICOM instances

    @property
    def paths(self) -> list[Path]:
        return [path for paths in self.series.values() for path in paths]


def load_study(folders: Path | Iterable[Path]) -> StudyFiles:
    """Group the DICOM files below `folders` by series, passing over other files and DICOMDIRs.

    Raises Permanent when there are none.
    """
    roots: Sequence[Path] = [folders] if isinstance(folders, Path) else list(folders)
    series: dict[str, list[Path]] = {}
    ignored = 0
    for path in find_files(roots):
        try:
            ds = dcmread(path, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"], stop_before_pixels=True)
            uid, instance = str(ds.get("SeriesInstanceUID", "")), str(ds.get("SOPInstanceUID", ""))
        except Exception:
            uid, instance = "", ""
        if uid and instance:
            series.setdefault(uid, []).append(path)
        else:
            ignored += 1
    if not series:
        where = ", ".join(str(root) for root in roots)
        raise Permanent(f"There are no DICOM images in {where} ({ignored} other files)")
    return StudyFiles(MappingProxyType({uid: tuple(paths) for uid, paths in series.items()}), ignored)
