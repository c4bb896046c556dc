"""The base of the error tree. The type of an error decides whether work is tried again, never its text.

NodeError
├── Retriable            the same work may succeed later: a peer is down, the database is busy
│   ├── StorageFull      no space left on the data directory's device
│   └── IndexLost        the database has no tables any more; the index role makes them anew
└── Permanent            trying again changes nothing: bad input, refused geometry, wrong configuration
    ├── Unfileable       an instance in a journal that has no place among the files
    ├── InputRefused     the images cannot be used, and the message says why
    └── ModelRefused     a model folder cannot be used, and the message says why

Messages never hold a patient's name, ID, birth date or any other attribute of the patient.
"""


class NodeError(Exception):
    """Any failure this project raises on purpose."""


class Retriable(NodeError):
    """The same work may succeed later."""


class StorageFull(Retriable):
    """The data directory's device has no space left."""


class IndexLost(Retriable):
    """The database was removed, or replaced by an empty one."""


class Permanent(NodeError):
    """Trying the same work again changes nothing."""


class Unfileable(Permanent):
    """An instance whose UIDs cannot be names of files."""


class InputRefused(Permanent):
    """Images that cannot be used: broken geometry, several volumes in one series, no pixels.

    `why` is one of `inference.contract.findings.WhyNoResult`; a quality gate, for example, says "poor-quality".
    """

    def __init__(self, message: str, why: str = "unusable-images") -> None:
        super().__init__(message)
        self.why = why


class ModelRefused(Permanent):
    """A model folder that cannot be used: no descriptor, unreadable weights, wrong labels."""
