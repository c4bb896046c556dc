"""The verdict on a try of a delivery, from the answer and from what the destination holds. Pure decisions."""

from enum import Enum

from dicom_node.dimse.results import SendOutcome, SendResult

# The destination did not get the object, so it cannot hold it because of this try.
_NOT_SENT = (SendOutcome.AWAY, SendOutcome.DENIED, SendOutcome.UNREADABLE, SendOutcome.UNSENDABLE)


class DeliveryVerdict(Enum):
    """The step that follows a try of a delivery."""

    ARRIVED = "arrived"  # the destination has the object
    CONFLICT = "conflict"  # it has an object of this UID that no try of this delivery can have brought
    WAIT = "wait"  # it gave no answer: try again, without counting
    RETRY = "retry"  # it answered with a failure that may pass, or the file cannot be read now: try again
    REPLACE = "replace"  # it refuses this object: send what stands for it
    GIVE_UP = "give up"  # the object cannot be sent, and nothing stands for it


def may_be_there(result: SendResult) -> bool:
    """Return True if the destination must be asked what it holds before anything else is done about the object."""
    return not (result.outcome is SendOutcome.STORED or result.outcome in _NOT_SENT)


def judge(result: SendResult, sent_before: bool, held: bool | None, is_last: bool) -> DeliveryVerdict:
    """Return the verdict on a try.

    `sent_before` is True if an earlier try of this delivery may have arrived. `held` is what the destination says about
    the object when it is asked; None if it says nothing. `is_last` is True if no attempt is left.
    """
    if result.outcome is SendOutcome.STORED:
        return DeliveryVerdict.ARRIVED
    exists = result.outcome is SendOutcome.EXISTS
    if (exists or (held and result.may_exist)) and not sent_before:
        return DeliveryVerdict.CONFLICT
    if held or exists or (held is None and result.may_exist and sent_before):
        return DeliveryVerdict.ARRIVED
    if result.outcome in (SendOutcome.AWAY, SendOutcome.LOST):
        return DeliveryVerdict.WAIT
    may_show_later = result.may_exist and sent_before  # an index may lag behind what is stored
    if (result.retriable or may_show_later) and not is_last:
        return DeliveryVerdict.RETRY
    return DeliveryVerdict.REPLACE if result.refused else DeliveryVerdict.GIVE_UP
