"""The place of servers and senders: both on the loopback interface, or each in a network namespace of its own."""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

LOOPBACK = "127.0.0.1"
MTU = 1500
_SERVER_ADDRESS, _SENDER_ADDRESS = "10.73.0.1", "10.73.0.2"
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL = 0x8946
# ETHTOOL_SRXCSUM and on: what `ethtool -K DEVICE rx off tx off sg off tso off gso off gro off` does
_OFFLOADS = {0x15: "rx", 0x17: "tx", 0x19: "sg", 0x1F: "tso", 0x24: "gso", 0x2C: "gro"}

P = ParamSpec("P")
T = TypeVar("T")


class NotPossible(Exception):
    """Why there can be no namespaces here."""


@dataclass(frozen=True)
class Place:
    """The words before a command of a server, and of a sender; and how they reach each other."""

    server_address: str = LOOPBACK
    server_namespace: str | None = None
    sender_namespace: str | None = None

    @property
    def in_server(self) -> Sequence[str]:
        return _inside(self.server_namespace)

    @property
    def in_sender(self) -> Sequence[str]:
        return _inside(self.sender_namespace)

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls `function` as a process of the server's side would, in a thread that enters the namespace."""
        if self.server_namespace is None:
            return function(*args, **kwargs)
        result: list[T] = []
        errors: list[Exception] = []

        def call() -> None:
            try:
                _enter(str(self.server_namespace))
                result.append(function(*args, **kwargs))
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return result[0]


def _inside(namespace: str | None) -> Sequence[str]:
    return () if namespace is None else ("ip", "netns", "exec", namespace)


def _enter(namespace: str) -> None:
    """Moves the calling thread. Python 3.12 has os.setns."""
    with Path(f"/run/netns/{namespace}").open("rb") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def two_namespaces() -> Iterator[Place]:
    """A pair of namespaces with a virtual cable between them, MTU 1500, offloads off. Raises NotPossible."""
    if os.geteuid() != 0:
        raise NotPossible("network namespaces need root")
    mark = f"dnb{os.getpid()}"
    names = (f"{mark}-server", f"{mark}-sender")
    devices = (f"{mark[:11]}a", f"{mark[:11]}b")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", devices[0], "mtu", str(MTU), "type", "veth", "peer", "name", devices[1], "mtu", str(MTU))
        for name, device, address in zip(names, devices, (_SERVER_ADDRESS, _SENDER_ADDRESS), strict=True):
            _offloads_off(device)
            _ip("link", "set", device, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", device)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", device, "up")
        yield Place(_SERVER_ADDRESS, *names)
    finally:
        for name in names:  # the devices go with them
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", devices[0]], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotPossible("there is no `ip` here (Debian: iproute2)") from None
    if done.returncode != 0:
        raise NotPossible(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _offloads_off(device: str) -> None:
    """Each packet is then as long as on a real cable. A kernel that knows one of them not at all is no error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command, name in _OFFLOADS.items():
            value = ctypes.create_string_buffer(struct.pack("II", command, 0))
            request = struct.pack("16sP", device.encode(), ctypes.addressof(value)) + bytes(16)
            try:
                fcntl.ioctl(control, _SIOCETHTOOL, request)
            except OSError as error:
                if name in ("tso", "gso", "gro"):
                    raise NotPossible(f"{name} of {device} cannot be turned off: {error.strerror}") from None
