"""`dicom-node recognise`."""

import json
from pathlib import Path

from tests.commands import invoke


def test_it_says_what_each_series_is_and_why_as_the_node_would(test_data: Path, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[[series]]\nseries_description = "*adc"\nkind = "other"\n')
    folders = [str(test_data / "mr/siemens_xa30_study" / name) for name in ("11_DWI_dir80_PA", "12_DWI_dir80_PA")]
    shown = invoke(["recognise", *folders, "--config", str(config)])
    assert shown.exit_code == 0
    text = " ".join(shown.output.replace("│", " ").split())
    assert "MR, other, axial, 2D, 39 slices, fat suppressed (confidence 1.00)" in text
    assert "the site's table names it (description '*adc')" in text
    assert "MR, DWI, axial, 2D, 39 slices, fat suppressed, b = 2500 (confidence 0.95)" in text
    listed = json.loads(invoke(["recognise", *folders, "--config", str(config), "--json"]).output)
    assert [(s["kind"], s["b_values"], s["echo_times"]) for s in listed] == [
        ("other", [], [68.0]),
        ("DWI", [2500.0], [68.0]),
    ]
