"""Headers that are decoded together equal those that are read one by one."""

from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from inference.headers.decoding import MOST_PATTERNS, HeaderDecoder, pattern_of, varying_values
from inference.series.image_facts import facts_like, facts_of
from inference.series.recogniser import recognise_headers


def header(number: int, **values: Any) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", f"1.2.{number}"
    ds.Modality, ds.SeriesDescription, ds.ScanningSequence = "MR", "Überblick", "SE"
    ds.AcquisitionTime, ds.TriggerTime = f"1200{number % 60:02}.5", str(number % 3)
    ds.RepetitionTime, ds.EchoTime, ds.InstanceNumber = 500, 10, number
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3.3 * number], [1, 0, 0, 0, 1, 0]
    ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.3", "1.4"
    ds.Rows, ds.Columns, ds.PixelSpacing, ds.SamplesPerPixel = 4, 4, [1, 1], 1
    ds.AnatomicRegionSequence = [Dataset()]
    ds.AnatomicRegionSequence[0].CodeValue = "T-D9100"
    block = ds.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "50")
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def encoded(ds: Dataset, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())


def alone(elements: bytes, implicit: bool) -> Dataset:
    return read_dataset(BytesIO(elements), is_implicit_VR=implicit, is_little_endian=True)


@pytest.mark.parametrize("implicit", [False, True])
def test_headers_that_differ_from_image_to_image_have_one_pattern(implicit: bool) -> None:
    headers = [encoded(header(number), implicit) for number in (1, 22, 333, 4, 5)]
    decoder = HeaderDecoder()
    found = [decoder.decode(one, implicit) for one in headers]
    assert found == [alone(one, implicit) for one in headers]
    assert len({pattern_of(ds) for ds in found}) == 1
    assert found[0]["EchoTime"] is found[1]["EchoTime"]
    assert str(recognise_headers(found)) == str(recognise_headers([alone(one, implicit) for one in headers]))


@pytest.mark.parametrize(
    "other",
    [
        {"EchoTime": 20}, {"SeriesDescription": "Other"}, {"PatientAge": "050Y"}, {"RescaleType": "US"},
        {"SpecificCharacterSet": "ISO_IR 101"}, {"AcquisitionTime": None}, {"AcquisitionNumber": 1},
    ],
)  # fmt: skip
def test_other_differences_make_another_pattern(other: dict[str, Any]) -> None:
    headers = [encoded(header(1), False), encoded(header(2, **other), False), encoded(header(3), False)]
    decoder = HeaderDecoder()
    one, two, three = (decoder.decode(elements, False) for elements in headers)
    assert [one, two, three] == [alone(elements, False) for elements in headers]
    assert pattern_of(one) == pattern_of(three)
    assert (pattern_of(two) == pattern_of(one)) == (other == {"AcquisitionTime": None})  # empty, but there


def test_the_same_bytes_are_converted_as_the_rest_of_their_header_says() -> None:
    latin = encoded(header(1), False)
    cyrillic = latin.replace(b"ISO_IR 100", b"ISO_IR 144")
    other_creator = latin.replace(b"SIEMENS MR HEADER", b"SIEMENS MR HEADED")
    decoder = HeaderDecoder()
    found = [decoder.decode(one, True) for one in map(implicitly, (latin, cyrillic, other_creator))]
    assert found[0].SeriesDescription != found[1].SeriesDescription
    assert [ds[0x0019100C].value for ds in found] == [50, 50, b"50"]


def implicitly(explicit: bytes) -> bytes:
    return encoded(alone(explicit, False), True)


@pytest.mark.parametrize("numbers", [(1, 3), (3, 1), (1, 4), (3, 6)])  # with a trigger and without
def test_images_of_one_pattern_differ_in_place_and_time_alone(numbers: tuple[int, int]) -> None:
    headers = [encoded(header(number), False) for number in numbers]
    decoder = HeaderDecoder()
    one, other = (decoder.decode(elements, False) for elements in headers)
    (known,) = facts_of(one)
    (expected,) = facts_of(alone(headers[1], False))
    assert facts_like(known, other) == expected


def told(ds: Dataset) -> dict[int, Any]:
    """The values of all elements, or the errors that they raise."""
    found: dict[int, Any] = {}
    for tag in ds.keys():  # noqa: SIM118
        try:
            found[tag] = ds[tag].value
        except Exception as error:
            found[tag] = type(error)
    return found


def test_bytes_that_end_early_or_late_are_of_no_pattern_that_is_known() -> None:
    whole = encoded(header(1), False)
    longer = encoded(header(1, RescaleType="US"), False)
    decoder = HeaderDecoder()
    decoder.decode(whole, False)
    assert decoder.decode(longer, False) == alone(longer, False)
    for end in range(0, len(whole), 3):
        try:
            expected = told(alone(whole[:end], False))
        except Exception as error:
            with pytest.raises(type(error)):
                decoder.decode(whole[:end], False)
        else:
            assert told(decoder.decode(whole[:end], False)) == expected


def test_odd_varying_values_are_read_as_alone() -> None:
    odd = encoded(header(2, InstanceNumber=7), False).replace(b"IS\2\x007 ", b"IS\2\0x ")
    odd = odd.replace(b"TM\x08\x00120002.5", b"TM\x08\x00\xff2000\x002.")
    unknown = encoded(header(4), False).replace(b"IS\2\x004 ", b"UN\0\0\2\0\0\x004 ")  # the VR was lost
    headers = [encoded(header(1), False), odd, encoded(header(3, TriggerTime=""), False), unknown]
    decoder = HeaderDecoder()
    found = [decoder.decode(one, False) for one in headers]
    assert len({pattern_of(ds) for ds in found}) == 2
    assert varying_values(found[-1])["InstanceNumber"] == 4
    assert str(recognise_headers(found)) == str(recognise_headers([alone(one, False) for one in headers]))


def test_a_series_may_have_any_number_of_patterns() -> None:
    headers = [encoded(header(1, EchoTime=number), False) for number in range(2 * MOST_PATTERNS)]
    decoder = HeaderDecoder()
    for one in headers * 2:
        assert decoder.decode(one, False) == alone(one, False)
