"""Errors of the node itself, on the tree that `storage.errors` begins.

Permanent
├── ConfigurationError    the TOML file or the environment is wrong; every mistake is in the one message
└── PeerRefused           another application entity refuses, and will again
    └── ObjectRefused     it refuses this object, and may take another one
Retriable
└── PeerUnavailable       another application entity does not answer, or broke off
"""

from storage.errors import Permanent, Retriable


class ConfigurationError(Permanent):
    """The configuration cannot be used. `mistakes` holds one readable line each."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class PeerRefused(Permanent):
    """A peer rejects the association, the SOP class or the instance, and would again."""


class ObjectRefused(PeerRefused):
    """A peer takes objects from us, but not this one."""


class PeerUnavailable(Retriable):
    """A peer cannot be reached, or the association broke off."""
