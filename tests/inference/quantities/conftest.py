import pytest

from dicom_node.demo.simulator.limb_study import write_limb_patient
from inference.engine.models import TorchEngine
from tests.inference.quantities.limb import Examined

SEED = 12  # a mass of 95 mL


@pytest.fixture(scope="session")
def examined(tmp_path_factory: pytest.TempPathFactory) -> Examined:
    ((study, truth),) = write_limb_patient(tmp_path_factory.mktemp("limb"), SEED, 1)
    return Examined(study, truth)


@pytest.fixture(scope="session")
def engine() -> TorchEngine:
    return TorchEngine("cpu")
