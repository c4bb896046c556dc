"""The questions to the source PACS: when it is asked, and what its answers do."""

from dicom_node.errors import PeerRefused, PeerUnavailable
from storage.records.studies import StudyState
from tests.schedule.sweeps import Clock, Source, Sweeps, bring
from tests.storage.node import STUDY, Node


def test_the_source_is_asked_once_what_came_has_settled(node: Node, clock: Clock, source: Source) -> None:
    sweeper = Sweeps(node, clock, source)
    source.count = 1
    bring(node, clock, 1)
    sweeper.sweep()
    sweeper.ask_source()
    assert source.asked == []
    clock.pass_(2)
    sweeper.ask_source()
    sweeper.ask_source()
    assert source.asked == [STUDY]
    sweeper.sweep()
    assert "archive counts 1 instance too" in node.texts()[2]
    sweeper.ask_source()
    assert source.asked == [STUDY]


def test_an_answer_says_nothing_of_what_came_while_it_was_given(node: Node, clock: Clock, source: Source) -> None:
    sweeper = Sweeps(node, clock, source)
    bring(node, clock, 1)
    clock.pass_(2)
    asked_at = clock.now

    def slowly(study_instance_uid: str) -> int:
        clock.pass_(3)
        return 1

    source.count_instances = slowly  # type: ignore[method-assign]
    sweeper.ask_source()
    (evidence,) = node.studies.evidence(STUDY)
    assert [a.at for a in evidence.answers] == [asked_at]


def test_a_source_that_is_away_delays_nobody_and_rests(node: Node, clock: Clock, source: Source) -> None:
    source.count = PeerUnavailable("archive cannot be reached")
    sweeper = Sweeps(node, clock, source)
    for study in ("1.1", "1.2", "1.3"):
        bring(node, clock, 1, study=study)
    sweeper.sweep()
    asked = []
    for _ in range(10):
        clock.pass_(1)
        sweeper.ask_source()
        asked.append(len(source.asked))
        sweeper.sweep()
    assert asked == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2]  # one study, and again after 5 s
    assert {node.study(s).state for s in ("1.1", "1.2", "1.3")} == {StudyState.IGNORED}
    assert "asked: archive gives no count of the study: archive cannot be reached" in node.texts("1.1")


def test_a_source_that_refuses_one_study_is_asked_about_the_others(node: Node, clock: Clock, source: Source) -> None:
    source.count = PeerRefused("archive does not accept queries")
    sweeper = Sweeps(node, clock, source)
    for study in ("1.1", "1.2"):
        bring(node, clock, 1, study=study)
    clock.pass_(2)
    sweeper.ask_source()
    assert source.asked == ["1.1", "1.2"]


def test_a_mistake_in_asking_is_an_answer(node: Node, clock: Clock, source: Source) -> None:
    source.count = ValueError("SECRET^PERSON")
    sweeper = Sweeps(node, clock, source)
    bring(node, clock, 1)
    clock.pass_(2)
    sweeper.ask_source()
    assert node.texts()[-1] == "asked: archive gives no count of the study: unexpected ValueError"
