"""The decision that the completion sweep would take now, to show to the operator what a study waits for."""

from datetime import UTC, datetime
from pathlib import Path

from dicom_node.complete.decision import decide_completion
from dicom_node.complete.inventory import take_inventory
from dicom_node.complete.rule import CompletionRule
from storage.log.journal import filed_until
from storage.records.completion import Completion, Waiting
from storage.tables.studies import Studies


def preview(
    studies: Studies, rule: CompletionRule, journals: Path, study_instance_uid: str
) -> Completion | Waiting | None:
    """Decide about one study, and change nothing. Return None for a study that is not RECEIVING."""
    filed = filed_until(journals)  # before the rows are read: it says what is among them
    found = studies.evidence(study_instance_uid)
    if not found:
        return None
    inventory = take_inventory(studies.contents(study_instance_uid))
    return decide_completion(found[0], inventory, rule, datetime.now(UTC), filed)
