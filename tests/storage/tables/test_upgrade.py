"""A database with rows of release 0.1 (schema 0004) is brought to this version, and keeps what it said."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, text

from storage.errors import WhyNoResult
from storage.log.instances import InstanceStore
from storage.records.jobs import NoResultDetail, WithoutResult
from storage.tables.database.connection import MIGRATIONS, Database
from storage.tables.deliveries import Deliveries
from storage.tables.jobs import Jobs
from storage.tables.studies import Studies

AT, LATER = "2026-05-04 12:00:00.000000+00:00", "2026-05-04 13:00:00.000000+00:00"
FIRST, CORRECTED = "a" * 64, "b" * 64  # contents of one instance in two versions
ROWS = [
    "INSERT INTO study (study_instance_uid, revision, state, reason, instances, revision_started_at, "
    "first_received_at, last_received_at) VALUES ('1.2.3', 1, 'IGNORED', '', 2, :at, :at, :at)",
    "INSERT INTO instance (sop_instance_uid, sop_class_uid, series_instance_uid, study_instance_uid, "
    "transfer_syntax_uid, modality, size, sha256, received_at, revision, facts, file) VALUES "
    "('1.2.3.1.1', '1.6', '1.2.3.1', '1.2.3', '1.7', 'MR', 10, :corrected, :later, 1, '{}', '1.2.3/1.2.3.1/v.dcm'), "
    "('1.2.3.1.2', '1.6', '1.2.3.1', '1.2.3', '1.7', 'MR', 10, :first, :at, 1, '{}', NULL)",
    "INSERT INTO instance_version (sop_instance_uid, sha256, file, received_at) VALUES "
    "('1.2.3.1.1', :first, NULL, :at), ('1.2.3.1.1', :corrected, '1.2.3/1.2.3.1/v.dcm', :later)",
    "INSERT INTO job (study_instance_uid, revision, application, inputs, fingerprint, state, superseded, "
    "attempts, reason, created_at, run_after, kind, detail) VALUES ('1.2.3', 1, 'liver', '{}', 'f', "
    "'QUEUED', FALSE, 0, '', :at, :at, 'NO_RESULT', :detail)",
    "INSERT INTO result_object (id, job_id, sop_instance_uid, sop_class_uid, series_instance_uid, "
    "study_instance_uid, kind, path, sequence, created_at, destinations, stands_for) "
    "VALUES (1, 1, '1.5', '1.6', '1.7', '1.2.3', 'SR', 'x', 0, :at, '[]', '')",
    "INSERT INTO delivery (object_id, job_id, sequence, destination, state, attempts, reason, created_at, "
    "run_after) VALUES (1, 1, 0, 'PACS', 'RETRYING', 1, 'no answer', :at, :at)",
]


@pytest.fixture
def upgraded(url: str) -> Iterator[Database]:
    with create_engine(url).begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        values = {"at": AT, "later": LATER, "first": FIRST, "corrected": CORRECTED}
        values["detail"] = '{"why": "failure", "explanation": "broke", "job": 7}'
        for row in ROWS:
            named = text(row)
            connection.execute(named, {name: values[name] for name in named.compile().params})
    database = Database(url)
    database.upgrade()
    yield database
    database.close()


def test_instances_and_their_versions_keep_their_place(upgraded: Database, tmp_path: Path) -> None:
    store = InstanceStore(upgraded, tmp_path / "journal", tmp_path / "instances", lambda sop_class, modality: True)
    found = {one.sop_instance_uid: one for one in store.instances("1.2.3")}
    assert {uid: (one.series_instance_uid, one.blob.checksum) for uid, one in found.items()} == {
        "1.2.3.1.1": ("1.2.3.1", CORRECTED),
        "1.2.3.1.2": ("1.2.3.1", FIRST),
    }
    assert found["1.2.3.1.1"].blob.path == tmp_path / "instances/1.2.3/1.2.3.1/v.dcm"
    assert found["1.2.3.1.2"].blob.path == tmp_path / "instances/1.2.3/1.2.3.1/1.2.3.1.2.dcm"
    with upgraded.reading() as session:
        versions = session.execute(
            text("SELECT sop_instance_uid, series_instance_uid, study_instance_uid, sha256 FROM instance_version")
        ).all()
    place = ("1.2.3.1.1", "1.2.3.1", "1.2.3")
    assert sorted(map(tuple, versions)) == [(*place, FIRST), (*place, CORRECTED)]
    assert [study.study_instance_uid for study in Studies(upgraded).list()] == ["1.2.3"]


def test_a_report_names_its_application_and_a_delivery_may_have_arrived(upgraded: Database) -> None:
    """The row of a report named one reason, and no application but its own."""
    (job,) = Jobs(upgraded).list()
    assert job.detail == NoResultDetail((WithoutResult("liver", WhyNoResult.FAILURE, "broke", 7),))
    (waiting,) = Deliveries(upgraded).list()
    assert waiting.may_have_arrived  # earlier versions did not note it
