"""Commands run in the process of the tests, whose logging stays as it is."""

from collections.abc import Sequence
from unittest.mock import patch

from typer.testing import CliRunner, Result

from dicom_node.cli.main import app


def invoke(arguments: Sequence[str]) -> Result:
    with patch("dicom_node.runtime.logs.configure"):
        return CliRunner().invoke(app, arguments)
