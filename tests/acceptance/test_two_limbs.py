"""Both legs in one study: each mass has its own outline, volume and ADC."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.demo.pacs.base import Pacs, PacsKind
from dicom_node.demo.pacs.ports import free_port
from dicom_node.demo.pacs.provisioning import find_orthanc
from dicom_node.demo.pacs.start import start_pacs
from dicom_node.demo.simulator.limb import GRIDS, imaged_limb
from dicom_node.demo.simulator.phantom_study import ImagedLimb
from dicom_node.dimse.scu import Target
from dicom_node.objects.reading.report import read_report
from inference.contract.concepts import VOLUME
from inference.volumes.measurements import volume_ml
from tests.acceptance.conftest import Push
from tests.acceptance.node import Node, delivered
from tests.acceptance.studies import write_two_limbs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SEEDS = {"R": 1, "L": 2}  # both masses are found well: tests of `soft_tissue_mass`


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Pacs]]:
    if find_orthanc() is None:
        pytest.skip("Orthanc is not installed: run tests/install-peers.sh")
    folder, port = tmp_path_factory.mktemp("node"), free_port()
    pacs = start_pacs(folder / "pacs", node=Target("DICOM_NODE", "127.0.0.1", port), kind=PacsKind.ORTHANC)
    node = Node(folder, port, pacs, applications=["soft_tissue_mass"])
    node.start()
    yield node, pacs
    node.stop()
    pacs.stop()


def true_ml(limb: ImagedLimb) -> float:
    return volume_ml(limb.mask, GRIDS["t1w"])


def test_each_mass_is_measured_on_its_own_images(place: tuple[Node, Pacs], push: Push, tmp_path: Path) -> None:
    node, pacs = place
    limbs = {side: imaged_limb(seed) for side, seed in SEEDS.items()}
    study = write_two_limbs(tmp_path / "study", limbs["R"], limbs["L"])
    push(node, tmp_path / "study")
    both = lambda d: delivered()(d) and len({j["side"] for j in d["jobs"]}) == 2 and len(d["deliveries"]) >= 4  # noqa: E731
    detail = node.wait(study.study_instance_uid, both, 800)
    for job in detail["jobs"]:
        (uid,) = [d["sop_instance_uid"] for d in detail["deliveries"] if (d["job_id"], d["kind"]) == (job["id"], "SR")]
        report = pacs.dataset(uid)
        told = [m.value for g in read_report(report).groups for m in g.measurements if m.name == VOLUME]
        assert told == [pytest.approx(true_ml(limbs[job["side"]]), rel=0.2)]
        used = [c.TextValue for c in report.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == "input-series"]
        side, first = {"R": ("right", 1), "L": ("left", 5)}[job["side"]]
        assert used == [
            f"{kind}: series {first + n} '{description}' ({side} side)"
            for kind, n, description in (
                ("T1w", 0, "T1 TSE axial"), ("DWI", 2, "DWI b50-400-800"), ("ADC", 3, "ADC"),
            )
        ]  # fmt: skip
