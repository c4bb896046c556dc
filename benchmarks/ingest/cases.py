"""The cases: which files are sent to which servers, by how many senders, and in which surroundings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.vendors.images import vendor_images
from benchmarks.vendors.private import Vendor
from benchmarks.workloads import Workload, enhanced_mr, mr_slices, small_images

STORESCU, DCMSEND = "storescu", "dcmsend"
ALL = ("node", "orthanc", "storescp")
WITH_CEILING = ("node", "receive", "orthanc", "storescp")
FLUSH_MILLISECONDS = 4.0  # what a disk takes that has no cache of its own
AT_REST, READ, GROWTH = "at-rest", "read", "growth"


@dataclass(frozen=True)
class Setting:
    """The equipment of servers from their start, so each setting has servers of its own.

    `nodelay` holds for senders and servers; without it both are as Debian ships them. In `slow_flush` each flush of the
    servers takes FLUSH_MILLISECONDS longer. A `full_index` holds many rows before anything is sent, on an own disk.
    """

    name: str
    nodelay: bool = True
    namespaces: bool = False
    slow_flush: bool = False
    full_index: bool = False


PLAIN = Setting("plain")
SHIPPED = Setting("shipped", nodelay=False)
VETH = Setting("veth", namespaces=True)
VETH_SHIPPED = Setting("veth shipped", nodelay=False, namespaces=True)
ROUTING = Setting("routing")
SLOW = Setting("slow", slow_flush=True)
FULL = Setting("full index", full_index=True)
GROWING = Setting("growing")
SETTINGS = (PLAIN, SHIPPED, VETH, VETH_SHIPPED, ROUTING, SLOW, FULL, GROWING)


@dataclass(frozen=True)
class Case:
    """One workload, sent by `senders` associations at once to each of `servers` in turn."""

    name: str
    workload: Workload
    setting: Setting = PLAIN
    senders: int = 1
    program: str = STORESCU
    servers: tuple[str, ...] = ALL

    @property
    def description(self) -> str:
        nagle = "" if self.setting.nodelay else ", Nagle on"
        slow = f", each flush {FLUSH_MILLISECONDS:g} ms longer" if self.setting.slow_flush else ""
        namespaces = ", two namespaces" if self.setting.namespaces else ""
        return f"{self.workload.description}, {self.program} × {self.senders}{nagle}{namespaces}{slow}"


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is. All but the one object follow from `images`, the number of those of 256²."""

    images: int
    enhanced_megabytes: int

    @property
    def large(self) -> int:
        return max(1, self.images * 3 // 10)

    @property
    def shipped(self) -> int:
        return max(1, self.images // 5)

    @property
    def small_batch(self) -> int:
        return max(2, self.images * 5 // 2)


class Workloads:
    """The files of all cases below `folder`, made when a case first asks for them."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        n = sizes.images
        few = max(2, n * 3 // 10)  # 300 of 1000, and ten times as many
        self._makers: dict[str, Callable[[Path], Workload]] = {
            "mr256": lambda f: vendor_images(f, "mr256", 256, n),
            "mr512": lambda f: vendor_images(f, "mr512", 512, sizes.large),
            "jpegls": lambda f: mr_slices(f, "jpegls", 256, n, compress=True),
            "enhanced": lambda f: enhanced_mr(f, "enhanced", sizes.enhanced_megabytes),
            "few": lambda f: study(f, "few", few, max(1, few // 10)),
            "many": lambda f: study(f, "many", 10 * few, max(1, few // 3)),
            "small": lambda f: small_images(f, "small", sizes.small_batch),
        }
        self._sizes = sizes
        self._folder = folder
        self._made: dict[str, Workload] = {}

    def get(self, name: str) -> Workload:
        if name == "shipped":
            return self.get("mr256").head(self._sizes.shipped)
        if name not in self._made:
            self._made[name] = self._makers[name](self._folder / name)
        return self._made[name]


def study(folder: Path, name: str, count: int, series_length: int) -> Workload:
    """One study of small images with the longest headers."""
    return vendor_images(folder, name, 64, count, series_length=series_length, vendors=(Vendor.SIEMENS,))


def definitions() -> dict[str, Callable[[Workloads], Case]]:
    """Every case that sends, by its name."""
    found: dict[str, Callable[[Workloads], Case]] = {}

    def case(name: str, workload: str, setting: Setting = PLAIN, senders: int = 1, program: str = STORESCU,
             servers: tuple[str, ...] = ALL) -> None:  # fmt: skip
        found[name] = lambda w: Case(name, w.get(workload), setting, senders, program, servers)

    case("enhanced-x1", "enhanced")  # the first, because its memory is told above that of a fresh server
    case("mr256-x1", "mr256", servers=WITH_CEILING)
    case("mr256-x4", "mr256", senders=4, servers=WITH_CEILING)
    case("mr256-x8", "mr256", senders=8)
    case("mr256-dcmsend", "mr256", program=DCMSEND)
    case("mr512-x1", "mr512")
    case("mr512-x4", "mr512", senders=4)
    case("jpegls-x1", "jpegls")
    case("jpegls-dcmsend", "jpegls", program=DCMSEND)
    case("shipped-x1", "shipped", SHIPPED)
    case("shipped-x4", "shipped", SHIPPED, senders=4)
    case("veth-x1", "mr256", VETH)
    case("veth-shipped-x1", "shipped", VETH_SHIPPED)
    case("routed-x1", "mr256", ROUTING, servers=("routing",))
    case("routed-x4", "mr256", ROUTING, senders=4, servers=("routing",))
    case("study-few", "few", ROUTING, servers=("routing",))
    case("study-many", "many", ROUTING, servers=("routing",))
    for senders in (1, 4, 8):
        case(f"slow-x{senders}", "mr256", SLOW, senders=senders)
    case("slow-dcmsend", "mr256", SLOW, program=DCMSEND)
    case("written-256", "mr256", FULL, servers=("node",))
    case("written-512", "mr512", FULL, servers=("node",))
    case(GROWTH, "small", GROWING, senders=4, servers=("node",))
    return found


NAMES = (AT_REST, *definitions(), READ)
