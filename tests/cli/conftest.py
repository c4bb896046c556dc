"""The fixtures that tests of commands share."""

from tests.cli.small_node import small_node

__all__ = ["small_node"]
