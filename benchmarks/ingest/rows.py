"""An index that holds many instances already: the rows of a few real ones, repeated under other UIDs.

Each series has a shared header of its own.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from benchmarks.workloads import UID_ROOT
from storage.records.studies import StudyState
from storage.tables.database import schema
from storage.tables.database.connection import Database, default_url

IMAGES_PER_STUDY, IMAGES_PER_SERIES = 300, 30
STUDIES_AT_ONCE = 50


def fill(data_dir: Path, rows: int, seed: int = 15) -> int:
    """Add at least `rows` instances to the index of a node that holds a few; return how many it holds then.

    Their studies are routed. The UIDs of one study lie together, and those of the studies lie anywhere among others,
    new ones included, as those of several scanners do.
    """
    database = Database(default_url(data_dir))
    try:
        with database.reading() as session:
            columns = session.execute(select(schema.StudyRow.__table__).limit(1)).mappings().one()
            instances = session.execute(select(schema.InstanceRow.__table__)).mappings().all()
            held = len(instances)
            header = dict(session.execute(select(schema.SharedHeaderRow.__table__).limit(1)).mappings().one())
            used = session.scalars(select(func.max(schema.SharedHeaderRow.id))).one()
        templates = [dict(instance) for instance in instances]
        study = {**columns, "state": StudyState.ROUTED, "instances": IMAGES_PER_STUDY}
        studies = -(-rows // IMAGES_PER_STUDY)
        roots = random.Random(seed).sample(range(10_000_000, 100_000_000), studies)
        for at in range(0, studies, STUDIES_AT_ONCE):
            some = roots[at : at + STUDIES_AT_ONCE]
            series = {uid: used + n for n, uid in enumerate((uid for root in some for uid in _series(root)), 1)}
            used += len(series)
            with database.session(derivable=True) as session:
                session.execute(
                    insert(schema.StudyRow.__table__),  # type: ignore[arg-type]
                    [{**study, "study_instance_uid": _uid(root, 1)} for root in some],
                )
                session.execute(
                    insert(schema.SharedHeaderRow.__table__),  # type: ignore[arg-type]
                    [_header(header, number, uid) for uid, number in series.items()],
                )
                session.execute(
                    insert(schema.InstanceRow.__table__),  # type: ignore[arg-type]
                    [row for root in some for row in _instances(root, templates, series)],
                )
    finally:
        database.close()
    return held + studies * IMAGES_PER_STUDY


def _instances(root: int, templates: list[dict[str, Any]], series: dict[str, int]) -> Iterator[dict[str, Any]]:
    uids = _series(root)
    for n in range(IMAGES_PER_STUDY):
        uid = uids[n // IMAGES_PER_SERIES]
        yield {
            **templates[n % len(templates)],
            "study_instance_uid": _uid(root, 1),
            "series_instance_uid": uid,
            "sop_instance_uid": f"{_uid(root, 3)}.{100_000 + n}",
            "shared_header_id": series[uid],
        }


def _series(root: int) -> list[str]:
    return [f"{_uid(root, 2)}.{n}" for n in range(IMAGES_PER_STUDY // IMAGES_PER_SERIES)]


def _header(header: dict[str, Any], number: int, series_instance_uid: str) -> dict[str, Any]:
    study = f"{series_instance_uid.rpartition('.2.')[0]}.1"
    return {**header, "id": number, "study_instance_uid": study, "series_instance_uid": series_instance_uid}


def _uid(root: int, kind: int) -> str:
    return f"{UID_ROOT}.{root}.{kind}"
