"""Jobs of one application for both sides of a study: each side supersedes itself only."""

from storage.records.deliveries import DeliveryState
from storage.records.jobs import Job, JobState, NewJob
from storage.records.results import ResultObject
from tests.storage.node import NOW, STUDY, Node, decision_on, objects, received


def route(node: Node, **fingerprints: str) -> None:
    """Routes a new revision: the keyword is a side, "both" none. Two sides are analysed beside each other."""
    study = node.complete()
    sides = {"" if side == "both" else side: made for side, made in fingerprints.items()}
    jobs = [
        NewJob(
            STUDY,
            study.revision,
            "knee",
            {},
            made,
            side=side,
            beside="".join(other for other in sides if other != side),
        )
        for side, made in sides.items()
    ]
    assert node.studies.route(STUDY, study.revision, "applies", jobs, decision_on("knee"), NOW)


def finish(node: Node) -> Job:
    job = node.claim()
    assert node.succeed(job, "PACS")
    return job


def previous(node: Node, job: Job) -> list[ResultObject]:
    return list(node.results.previous_sr(STUDY, job.application, job.id, ["PACS"], job.beside))


def states(node: Node) -> dict[str, DeliveryState]:
    return {d.object.sop_instance_uid: d.state for d in node.deliveries.list(study=STUDY)}


def test_a_side_supersedes_the_same_side_only(node: Node) -> None:
    node.store(received())
    route(node, R="r1", L="l1")
    right, left = finish(node), finish(node)
    assert [(job.side, job.beside, job.title) for job in (right, left)] == [
        ("R", "L", "knee (right)"), ("L", "R", "knee (left)"),
    ]  # fmt: skip
    assert set(states(node).values()) == {DeliveryState.QUEUED}
    node.arrive()
    assert previous(node, left) == []
    node.store(received(2))
    route(node, R="r1", L="l2")
    again = finish(node)
    assert (again.side, node.jobs.claim("worker", NOW)) == ("L", None)  # the right one stands
    assert {o.job_id for o in previous(node, again)} == {left.id}
    assert {o.job_id for o in node.results.superseded(STUDY, "knee", again.id, "PACS", "R")} == {left.id}


def test_what_was_of_no_side_is_superseded_by_both_and_the_other_way_round(node: Node) -> None:
    node.store(received())
    route(node, both="b1")
    whole = finish(node)
    node.arrive()
    node.store(received(2))
    route(node, R="r1", L="l1")
    right, left = finish(node), finish(node)
    assert [{o.job_id for o in previous(node, job)} for job in (right, left)] == [{whole.id}, {whole.id}]
    node.store(received(3))
    route(node, both="b2")
    finish(node)
    assert states(node)[objects(right)[0].sop_instance_uid] is DeliveryState.REPLACED
    assert states(node)[objects(left)[0].sop_instance_uid] is DeliveryState.REPLACED


def test_a_failed_side_can_be_queued_again_beside_the_other(node: Node) -> None:
    node.store(received())
    route(node, R="r1", L="l1")
    right = node.claim()
    assert node.jobs.fail(right.id, "worker", "out of memory", None, NOW) is JobState.FAILED
    left = finish(node)
    assert (right.side, left.side) == ("R", "L")
    assert node.jobs.retry(right.id)
