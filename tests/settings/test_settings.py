"""The configuration: a TOML file, overridden by the environment, with every mistake in one report."""

from pathlib import Path

import pytest

from dicom_node.deliver.destinations.dicomweb import DicomwebSettings
from dicom_node.deliver.destinations.folder import FolderSettings
from dicom_node.errors import ConfigurationError
from dicom_node.objects.profiles import ObjectProfile, SegmentationForm
from dicom_node.settings.loading import load_settings
from inference.series.kinds import Kind as SeriesKind
from inference.series.site_table import SiteRule
from storage.records.results import ObjectKind

GOOD = """
[node]
ae_title = "HOSPITAL_AI"
data_dir = "data"
[receive]
port = 11113
[[peers]]
ae_title = "SCANNER1"
host = "127.0.0.1"
[[destinations]]
name = "pacs"
kind = "dimse"
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[[applications]]
id = "segmentation"
name = "brain"
bundle = "models/brain"
destinations = ["pacs"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_paths_start_at_the_file(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.node.data_dir == tmp_path / "data"
    assert settings.applications[0].bundle == tmp_path / "models" / "brain"
    assert settings.database_url == f"sqlite:///{tmp_path / 'data' / 'node.sqlite'}"
    assert (settings.receive.processes, settings.completion.quiet_seconds, settings.work.devices) == (1, 30, "auto")


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__RECEIVE__PORT", "11199")
    monkeypatch.setenv("DICOM_NODE__NODE__DATABASE_URL", "postgresql+psycopg://u:secret@h/d")
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.receive.port == 11199
    assert settings.node.ae_title == "HOSPITAL_AI"
    assert settings.database_url == "postgresql+psycopg://u:secret@h/d"
    assert "secret" not in repr(settings)


def test_a_misspelt_variable_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__RECIEVE__PORT", "1")
    with pytest.raises(ConfigurationError, match="did you mean 'receive'"):
        load_settings(write(tmp_path, GOOD))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("port = 11113", "prot = 11113", "receive.prot: there is no such key; allowed: host, port,"),
        ("port = 11113", "prot = 11113", "did you mean 'port'?"),
        ("port = 11113", "port = 0", "receive.port = 0: input should be greater than or equal to 1"),
        ('"HOSPITAL_AI"', '"A_TITLE_OF_MORE_THAN_16"', "an AE title has 1 to 16 ASCII characters"),
        ('kind = "dimse"', 'kind = "dimze"', "destinations[0].kind = 'dimze'"),
        ('host = "127.0.0.1"\nport = 4242', "port = 4242", "destinations[0].host: missing"),
        ('id = "segmentation"', 'id = "segmentatoin"', "did you mean 'segmentation'?"),
        ('["pacs"]', '["pasc"]', "applications[0].destinations = 'pasc': no [[destinations]] has this name"),
        (
            "[receive]",
            '[completion]\nsource = "pasc"\n[receive]',
            "completion.source = 'pasc': no [[destinations]] has this",
        ),
        ('name = "brain"', 'start = "input"', "applications[0].start = 'input'"),
        ('ae_title = "SCANNER1"', 'ae_title = "SCANNER1"\npriority = -1', "peers[0].priority = -1"),
        ('bundle = "models/brain"', "", "needs the folder of a model"),
        ("[node]", "[nod]", "there is no such key; allowed: node, receive"),
        ("[receive]\nport = 11113", "[completion]\nquiet_seconds = inf", "should be a finite number"),
        ("[receive]\nport = 11113", "[completion]\nquiet_seconds = 1e300", "less than or equal to 2678400"),
        (
            'id = "segmentation"',
            'id = "soft_tissue_mass"',
            "bundle = 'models/brain': the application 'soft_tissue_mass' has a model of its own and takes none",
        ),
        (
            "[[peers]]",
            '[[series]]\nkind = "T1w"\n[[peers]]',
            "series[0]: names no series; give at least one of station_name",
        ),
        (
            "[[peers]]",
            '[[series]]\nprotocol_name = "a*"\nkind = "T1"\n[[peers]]',
            "series[0].kind = 'T1': input should be",
        ),
        ("[[peers]]", '[[series]]\nprotocol_name = "a*"\nkind = "T1W"\n[[peers]]', "did you mean 'T1w'?"),
        ("[[peers]]", "[peers]", "peers: must be a list of tables, each under [[peers]] in double brackets"),
    ],
)
def test_a_mistake_is_told_by_key_and_value(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, GOOD.replace(old, new)))
    assert told in str(error.value)


WEB = """
[[destinations]]
name = "archive"
kind = "dicomweb"
url = "https://archive.example:8443/dicom-web/"
username = "node"
password_file = "secrets/archive"
ca_file = "ca.pem"
objects = ["SR", "SC", "SR"]
segmentation = "labelmap"
omit_empty_frames = false
withdraw_superseded = true
[[destinations]]
name = "inbox"
kind = "folder"
path = "inbox"
"""


def test_destinations_of_every_kind(tmp_path: Path) -> None:
    pacs, archive, inbox = load_settings(write(tmp_path, GOOD + WEB)).destinations
    assert isinstance(archive, DicomwebSettings)
    assert isinstance(inbox, FolderSettings)
    assert pacs.profile == inbox.profile == ObjectProfile()
    assert archive.url == "https://archive.example:8443/dicom-web"
    assert (archive.password_file, archive.ca_file) == (tmp_path / "secrets" / "archive", tmp_path / "ca.pem")
    assert inbox.path == tmp_path / "inbox"
    assert archive.profile == ObjectProfile(
        SegmentationForm.LABELMAP, omits_empty_frames=False, objects=frozenset({ObjectKind.SR, ObjectKind.SC}),
        withdraws_superseded=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kind = "folder"', 'kind = "foldr"', "destinations[2].kind = 'foldr': there is no such kind; allowed: dimse,"),
        ('kind = "folder"', 'kind = "foldr"', "did you mean 'folder'?"),
        ('kind = "folder"', "", "destinations[2].path: there is no such key; allowed: name,"),
        ('path = "inbox"', "", "destinations[2].path: missing"),
        ('path = "inbox"', 'path = "inbox"\nport = 1', "destinations[2].port: there is no such key; allowed: name,"),
        ("password_file", "pasword_file", "did you mean 'password_file'?"),
        ('password_file = "secrets/archive"', "", "destinations[1].username: needs `password_file` beside it"),
        ("password_file =", "token_file =", "destinations[1].token_file: excludes `username`"),
        ("ca_file =", "client_key =", "destinations[1].client_key: needs `client_certificate`"),
        ("https:", "http:", "destinations[1].ca_file: needs a `url` that begins with https"),
        ("https://", "ftp://", "destinations[1].url: must be the address of a DICOMweb service"),
        (":8443", ":84430", "destinations[1].url: must be the address of a DICOMweb service"),
        ('"SC"', '"CT"', "destinations[1].objects[1] = 'CT': input should be 'SEG', 'PM'"),
        ('["SR", "SC", "SR"]', "[]", "destinations[1].objects = []: tuple should have at least 1 item"),
        ('"labelmap"', '"labelmpa"', "did you mean 'labelmap'?"),
        ('[[destinations]]\nname = "inbox"', '[completion]\nsource = "archive"\n[[destinations]]\nname = "inbox"',
         "completion.source = 'archive': this destination is of kind 'dicomweb'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_destination_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in WEB
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, GOOD + WEB.replace(old, new)))
    assert told in str(error.value)


@pytest.mark.parametrize("kind", ['kind = "dicomweb"', ""])
def test_a_password_in_a_destination_is_refused_and_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    text = WEB.replace('kind = "dicomweb"', kind).replace("https://", "https://node:hidden@")
    with pytest.raises(ConfigurationError) as error:
        load_settings(
            write(tmp_path, GOOD + text.replace("ca_file =", 'password = "hidden"\ntoken = "hidden"\nca_file ='))
        )
    assert "hidden" not in str(error.value)
    assert kind == "" or "must not hold a user; give `username` with `password_file`" in str(error.value)
    monkeypatch.setenv("DICOM_NODE__DESTINATIONS", '[{"url": "https://node:hidden@h"')
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, GOOD))
    assert "DICOM_NODE__DESTINATIONS (environment): it must be a JSON list of tables" in str(error.value)
    assert "hidden" not in str(error.value)


def test_a_sites_own_series(tmp_path: Path) -> None:
    entry = '[[series]]\nseries_description = "*t1*tra*"\nkind = "T1w"\nfat_suppressed = false'
    (series,) = load_settings(write(tmp_path, f"{GOOD}{entry}")).series
    assert series.rule == SiteRule(SeriesKind.T1W, series_description="*t1*tra*", fat_suppressed=False)


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    text = GOOD.replace("port = 11113", "port = 0").replace("4242", "99999").replace("ae_title =", "ae_titel =")
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, text))
    assert len(error.value.mistakes) >= 5


def test_a_mistake_in_the_form_hides_none_in_the_names(tmp_path: Path) -> None:
    text = GOOD.replace("port = 11113", "port = 0").replace('["pacs"]', '["pasc"]').replace("segmentation", "segment")
    twice = '[[destinations]]\nname = "pacs"\nae_title = "P"\nhost = "h"\nport = 104\n'
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, text + twice))
    told = str(error.value)
    for mistake in ("receive.port = 0", "'pasc': no [[destinations]]", "did you mean 'segmentation'", "used 2 times"):
        assert mistake in told
    assert "allowed: pacs; did you mean" in told


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DICOM_NODE__RECEIVE", "foo", "it is a section; set one of its keys, as in DICOM_NODE__RECEIVE__HOST"),
        ("DICOM_NODE__PEERS", "X", "it must be a JSON list of tables"),
        ("DICOM_NODE__PEERS", '[{"ae_titel": "X"}]', "did you mean 'ae_title'"),
        ("DICOM_NODE__RECEIVE__PORT__X", "1", "receive.port"),
    ],
)
def test_a_variable_that_cannot_be_read_is_told_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, GOOD.replace('"HOSPITAL_AI"', '"A_TITLE_OF_MORE_THAN_16"')))
    assert told in str(error.value)
    assert "an AE title has" in str(error.value)


def test_no_password_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__NODE", '{"database_url": "postgresql://u:secret@h/d"')
    with pytest.raises(ConfigurationError) as error:
        load_settings(write(tmp_path, GOOD))
    assert "DICOM_NODE__NODE (environment): it is a section" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_variable_may_hold_a_whole_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE__PEERS", '[{"ae_title": "OTHER"}]')
    monkeypatch.setenv("DICOM_NODE__RECEIVE", '{"port": 104, "processes": 2}')
    monkeypatch.setenv("DICOM_NODE__RECEIVE__PORT", "105")
    settings = load_settings(write(tmp_path, GOOD))
    assert [p.ae_title for p in settings.peers] == ["OTHER"]
    assert (settings.receive.port, settings.receive.processes) == (105, 2)


@pytest.mark.parametrize("text", ["[node", "\xff"])
def test_what_is_no_toml_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_settings(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(tmp_path / "none.toml")
