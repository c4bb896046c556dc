"""Messages to systemd, or to any supervisor that speaks sd_notify(3). Without a supervisor they do nothing."""

import os
import socket
from contextlib import suppress


def notify(*states: str) -> bool:
    """Send `states`, such as "READY=1", to $NOTIFY_SOCKET. Return False if no supervisor listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(1.0)
        channel.connect(address)
        channel.sendall("\n".join(states).encode())
        return True
    return False


def watchdog_interval() -> float | None:
    """Return the seconds within which "WATCHDOG=1" must be sent, or None if no watchdog watches this process."""
    watched = os.environ.get("WATCHDOG_PID")
    if watched not in (None, "", str(os.getpid())):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
