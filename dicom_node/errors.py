"""The tree of errors of all three packages. The type of an error decides whether work is retried, never its text.

NodeError                    any failure that the project raises on purpose
├── Retriable                the same work may succeed later
│   ├── StorageFull          no space is left on the data directory's device
│   ├── IndexLost            the database has no tables any more; the index role makes them again
│   ├── StudyInUse           a study is not deleted while its files are being read
│   └── PeerUnavailable      another application entity does not answer, or broke off
│       ├── AnswerLost       it was sent something, and no answer came: it may have acted upon that
│       └── AnswerUnreadable it answered with what cannot be read: it may have acted upon what it was sent
├── Permanent                retrying changes nothing: bad input, refused geometry, wrong configuration
│   ├── ConfigurationError   the configuration, the environment or an installed version is wrong; lists every mistake
│   ├── PeerRefused          another application entity refuses, and will refuse again
│   │   └── ObjectRefused    it refuses this object, and may take another one
│   │       └── ObjectConflict   it refuses this object, perhaps because it has one of the same UID
│   ├── UnreadableDataset    bytes are no dataset, or one without the UIDs of an instance
│   ├── InstanceMismatch     a C-STORE command and its dataset name different instances or SOP classes
│   ├── NotNegotiated        a C-STORE uses a presentation context that is not for storing its SOP class
│   ├── Unfileable           the UIDs of an instance cannot be names of files
│   ├── DamagedFrame         the body of a frame of a journal is not what was written
│   ├── DeletionRefused      a study is not deleted while somebody waits for what would be lost
│   ├── InputRefused         the images cannot be used, and the message says why
│   │   └── MalformedObject  a parser cannot read the bytes of an object
│   ├── PatientConflict      the images of a job state different patients
│   └── ModelRefused         a model folder cannot be used, and the message says why
└── PacsUnavailable          the PACS of the demo could not be started

Messages never hold a patient's name, ID, birth date or any other attribute of the patient. The base and the errors that
`storage` and `inference` raise are defined in `storage.errors`.
"""

from storage.errors import Permanent, Retriable


class ConfigurationError(Permanent):
    """The configuration cannot be used. `mistakes` holds one readable line each."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class PatientConflict(Permanent):
    """The images of a job state different patients, so no object can be made of them, not even a report."""


class PeerRefused(Permanent):
    """A peer rejects the association, the SOP class or the instance, and would again."""


class ObjectRefused(PeerRefused):
    """A peer takes objects from us, but not this one."""


class ObjectConflict(ObjectRefused):
    """A peer refuses this object because of a conflict: it may have one of the same UID."""


class PeerUnavailable(Retriable):
    """A peer cannot be reached, or the association broke off."""


class AnswerLost(PeerUnavailable):
    """A peer was sent a request, and no answer to it came."""


class AnswerUnreadable(PeerUnavailable):
    """A peer was sent a request, and its answer cannot be read."""
