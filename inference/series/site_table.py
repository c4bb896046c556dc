"""The table in which a site states the kinds of its own series, because it knows them better than headers do."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset

from inference.headers.attributes import matches
from inference.series.kinds import Kind


@dataclass(frozen=True)
class SiteRule:
    """The kind of the series that match every pattern ("*t1*tra*": `*` and `?` as in a shell, case ignored).

    An empty pattern matches anything. If a value is None, the header decides.
    """

    kind: Kind
    station_name: str = ""
    series_description: str = ""
    protocol_name: str = ""
    fat_suppressed: bool | None = None
    contrast: bool | None = None

    def names(self, ds: Dataset) -> bool:
        patterns = {
            "StationName": self.station_name,
            "SeriesDescription": self.series_description,
            "ProtocolName": self.protocol_name,
        }
        return all(matches(str(ds.get(keyword, "")), pattern) for keyword, pattern in patterns.items() if pattern)

    def __str__(self) -> str:
        given = {
            "station": self.station_name,
            "description": self.series_description,
            "protocol": self.protocol_name,
        }
        return ", ".join(f"{what} {pattern!r}" for what, pattern in given.items() if pattern)


SiteTable = Sequence[SiteRule]


def rule_for(ds: Dataset, table: SiteTable) -> SiteRule | None:
    """Return the first rule that names the series of `ds`."""
    return next((rule for rule in table if rule.names(ds)), None)
