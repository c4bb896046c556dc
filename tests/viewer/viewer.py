"""A PACS with OHIF over its DICOMweb, and what OHIF shows of a study."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dicom_node.demo.pacs.base import Pacs
from dicom_node.demo.pacs.orthanc import DICOMWEB_PLUGIN
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.dimse.scu import send_files
from storage.blobs import file_blobs

FOLDER = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "dicom-node-tests" / "viewer"
INSTALLED = Path(os.environ.get("DICOM_NODE_VIEWER", CACHE))
OHIF = INSTALLED / "dist"
CALLER = "VIEWERTEST"
LOOK_SECONDS = 280


@dataclass(frozen=True)
class Study:
    """What is to be looked at: SeriesDescription of the images, and of the results that there are."""

    study_instance_uid: str
    images: str
    segmentation: str = ""
    report: str = ""
    structures: str = ""
    maps: tuple[str, ...] = ()
    image_series: int = 1
    findings: int = 0  # that the report draws; a report that draws none opens as a page of text
    patience: int = 60_000  # ms for each thing that is to appear

    @property
    def series(self) -> int:
        return self.image_series + len(self.maps) + sum(map(bool, (self.segmentation, self.report, self.structures)))


@dataclass(frozen=True)
class Viewer:
    """OHIF at `url`, showing what `pacs` holds."""

    pacs: Pacs
    url: str

    def store(self, paths: list[Path]) -> None:
        failed = [result.reason for result in send_files(file_blobs(paths), CALLER, self.pacs.target) if not result.ok]
        assert not failed, failed

    def look(self, study: Study, folder: Path) -> dict[str, Any]:
        """What is seen of the study, as look.js tells it; screenshots go into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        request = {
            "url": self.url, "chromium": _program("chromium"), "folder": str(folder),
            "study": study.study_instance_uid, "series": study.series, "images": study.images,
            "segmentation": study.segmentation, "report": study.report, "structures": study.structures,
            "maps": list(study.maps), "findings": study.findings, "patience": study.patience,
        }  # fmt: skip
        done = subprocess.run(
            [_program("node"), str(FOLDER / "look.js")], input=json.dumps(request), text=True, capture_output=True,
            check=False, timeout=LOOK_SECONDS, env={**os.environ, "NODE_PATH": str(INSTALLED / "node_modules")},
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stderr}\nscreenshots: {folder}"
        seen: dict[str, Any] = json.loads(done.stdout)
        (folder / "seen.json").write_text(json.dumps(seen, indent=1))
        return seen


def require_viewer() -> None:
    """Skips where something is missing that a viewer needs."""
    for name in ("chromium", "node"):
        _program(name)
    if find_orthanc() is None or not DICOMWEB_PLUGIN.is_file():
        pytest.skip("Orthanc with DICOMweb is not installed: run tests/install-peers.sh viewer")
    if not (OHIF / "index.html").is_file():
        pytest.skip("OHIF is not installed: run tests/viewer/install.sh")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: run tests/install-peers.sh viewer")
    return found
