"""Commands run in the process of the tests, whose logging stays as it is."""

from collections.abc import Sequence
from unittest.mock import patch

from typer.testing import CliRunner, Result

from dicom_node.cli.main import app
from dicom_node.cli.output import console


def invoke(arguments: Sequence[str], columns: int = 80) -> Result:
    """Run a command on a terminal of this width."""
    console.width = columns
    with patch("dicom_node.runtime.logs.configure"):
        return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, arguments)
