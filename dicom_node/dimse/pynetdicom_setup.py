"""The pinned version of pynetdicom, whose internals this package uses, and the silencing of its logs."""

import logging

import pynetdicom
from pynetdicom import Association, evt

from dicom_node.errors import ConfigurationError

PINNED_VERSION = "3.0.4"  # the same as in pyproject.toml


def ensure_pinned_version() -> None:
    """Raise ConfigurationError unless the installed pynetdicom has the version whose internals the node uses.

    Every role that opens associations calls this once when it is built.
    """
    installed = pynetdicom.__version__
    if installed != PINNED_VERSION:
        raise ConfigurationError(
            [
                f"pynetdicom {installed} is installed, but the node needs version {PINNED_VERSION} exactly; "
                f"run `pip install pynetdicom=={PINNED_VERSION}`"
            ]
        )


def silence_pynetdicom() -> None:
    """Keep pynetdicom's own lines out of the logs at every level, because they quote requests and datasets.

    The node logs the same events in its own words, without attributes of the patient.
    """
    logging.getLogger("pynetdicom").propagate = False


class QuietAssociation(Association):
    """An association that binds only the intervention events: all others describe every message to pynetdicom's log."""

    def _bind_defaults(self) -> None:
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))
