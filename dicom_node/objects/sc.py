"""Secondary Capture, multi-frame True Color (PS3.3 A.8.5): key images with outlines and numbers, and a report as text.

It is for viewers that show neither SEG nor SR. All pictures are frames of a single object, so that they are sent,
refused and committed together and keep their order. A viewer that ignores frames shows the first picture.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from dicom_node.objects.base.codes import RESEARCH_NOTICE
from dicom_node.objects.base.context import ObjectContext
from dicom_node.objects.base.description import describe
from dicom_node.objects.base.new_object import new_object
from dicom_node.objects.base.parts import ResultParts
from dicom_node.objects.base.series_numbers import SC_SERIES
from dicom_node.objects.base.source_headers import source_headers
from dicom_node.objects.base.value_lengths import SH_LENGTH
from dicom_node.objects.drawing.outline import boundaries, key_slice
from dicom_node.objects.drawing.pictures import PixelBox, draw_marks, drawable, font, letters, windowed
from inference.contract.findings import Evaluation, Findings, Measurement, Segment
from inference.volumes.volume import FrameReference, Volume
from storage.records.results import ObjectKind

SIDE = 768  # pixels of a frame, which is square; shown at 512 x 512, its text is TEXT * 2 / 3 high
TEXT = 24
LINE = 30
MARGIN = 12
SWATCH = 18
STROKE = 3
MAXIMUM_KEY_IMAGES = 8
MAXIMUM_LEGEND = 4  # segments named under a key image
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")  # PS3.3 C.7.6.1.1.5
HEADLINE = 3  # numbers of a segment, or of the whole study, under a key image; the text pages have all

Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)
AMBER: Color = (255, 191, 0)


@dataclass(frozen=True)
class Line:
    """A line of text. `swatch` is the colour of the segment that it describes, if any."""

    text: str
    color: Color = WHITE
    swatch: Color | None = None


def create(kind: ObjectKind, parts: ResultParts) -> list[Dataset]:
    """Return the Secondary Capture."""
    return [build_sc(parts.findings, parts.context)]


def build_sc(findings: Findings, context: ObjectContext) -> Dataset:
    """Build the pictures of `findings`, as RGB frames of SIDE x SIDE, uncompressed.

    First come the key images: for each segment the slice where it is largest, at most MAXIMUM_KEY_IMAGES, with the
    outlines of everything on that slice. If nothing was found, the only key image is the middle slice. Then comes the
    whole report as text.

    BurnedInAnnotation (PS3.3 C.7.6.1) says if the pixels identify the patient and the date of the image. It is NO
    unless it is YES in the source, because no attribute of the patient or the study is drawn.
    RecognizableVisualFeatures is as in the source, and absent where the source has none: a sagittal slice of a head may
    show a face.
    """
    source = findings.source
    labels = _key_slices(findings)
    slices = list(labels)[:MAXIMUM_KEY_IMAGES]
    headers = source_headers(replace(source, frames=tuple(source.frames[k] for k in slices)))
    pages = [
        *_key_images(findings, slices, [_name(source.frames[k], headers) for k in slices]),
        *_text_pages(findings, unshown=len(labels) - len(slices)),
    ]
    ds = new_object(
        headers[0], findings, context, "SC", MultiFrameTrueColorSecondaryCaptureImageStorage, "OT", SC_SERIES
    )
    ds.ConversionType = "WSD"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.PatientOrientation = [letters(source.geometry.affine[:3, axis]) for axis in (2, 1)]
    ds.BurnedInAnnotation = "YES" if headers[0].get("BurnedInAnnotation") == "YES" else "NO"
    for keyword in ("RecognizableVisualFeatures", *LOSSY):
        if keyword in headers[0]:
            ds[keyword] = headers[0][keyword]
    ds.DerivationDescription = "Key images with outlines, and the report as text"
    ds.SourceImageSequence = [_source_image(source, k) for k in slices]
    ds.PageNumberVector = list(range(1, len(pages) + 1))
    ds.FrameLabelVector = [*(labels[k] for k in slices), *["Report"] * (len(pages) - len(slices))]
    ds.FrameIncrementPointer = [Tag("PageNumberVector"), Tag("FrameLabelVector")]
    ds.NumberOfFrames = len(pages)
    ds.Rows = ds.Columns = SIDE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.add_new("PixelData", "OB", b"".join(page.tobytes() for page in pages))
    describe(ds, findings, context, "key images")
    return ds


def _key_slices(findings: Findings) -> dict[int, str]:
    """Return the key slices in the order of the segments, each with the label of its first segment."""
    if not findings.segments:
        return {len(findings.source.frames) // 2: "No finding"}
    labels: dict[int, str] = {}
    for segment in findings.segments:
        labels.setdefault(key_slice(segment.mask), segment.label[:SH_LENGTH])
    return labels


def _name(frame: FrameReference, headers: Sequence[Dataset]) -> str:
    """Return the numbers by which a reader finds a slice: those of the series, and of the image or frame."""
    header = next(header for header in headers if header.SOPInstanceUID == frame.sop_instance_uid)
    image = header.get("InstanceNumber") if frame.frame_number is None else frame.frame_number
    return f"series {header.get('SeriesNumber') or '?'}, image {image or '?'}"


def _source_image(source: Volume, k: int) -> Dataset:
    frame = source.frames[k]
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = code[:3]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class_uid, frame.sop_instance_uid
    if frame.frame_number is not None:
        item.ReferencedFrameNumber = frame.frame_number
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _key_images(findings: Findings, slices: Sequence[int], names: Sequence[str]) -> Iterator[Image.Image]:
    """Draw a page for each slice. The picture has the same size on all of them."""
    feet = [_legend(findings, k) for k in slices]
    bottom = SIDE - LINE * max(len(foot) for foot in feet) - MARGIN
    for k, name, foot in zip(slices, names, feet, strict=True):
        head = [*_notice(findings), Line(f"{findings.title}: {name}")]
        page = Image.new("RGB", (SIDE, SIDE))
        _write(page, 0, head)
        _draw_slice(page, (0, LINE * len(head) + MARGIN // 2, SIDE, bottom), findings, k)
        _write(page, bottom + MARGIN // 2, foot)
        yield page


def _notice(findings: Findings) -> list[Line]:
    return [Line(RESEARCH_NOTICE, AMBER)] if findings.research else []


def _draw_slice(page: Image.Image, box: PixelBox, findings: Findings, k: int) -> None:
    """Draw a slice as large as it fits, in right proportions. Its rows and columns are not turned."""
    geometry = findings.source.geometry
    _, rows, columns = geometry.shape
    _, row_mm, column_mm = geometry.spacing
    scale = min((box[2] - box[0]) / (columns * column_mm), (box[3] - box[1]) / (rows * row_mm))  # pixels per mm
    width, height = max(1, round(columns * column_mm * scale)), max(1, round(rows * row_mm * scale))
    left, top = (box[0] + box[2] - width) // 2, (box[1] + box[3] - height) // 2
    grey = Image.fromarray(windowed(findings.source.array[k]).astype(np.uint8))
    page.paste(grey.resize((width, height), Image.Resampling.BICUBIC), (left, top))
    draw = ImageDraw.Draw(page)
    for segment in findings.segments:
        for polygon in boundaries(segment.mask[k]):
            points = polygon * (width / columns, height / rows) + (left, top)
            draw.line([tuple(point) for point in points.tolist()], fill=segment.color, width=STROKE, joint="curve")
    right, down = geometry.affine[:3, 2], geometry.affine[:3, 1]
    marks = (letters(-right), letters(right), letters(-down), letters(down))
    draw_marks(draw, (left, top, left + width, top + height), marks, TEXT)


def _legend(findings: Findings, k: int) -> list[Line]:
    """List the segments that are drawn on slice `k` with their headline numbers, then those of the whole study."""
    if not findings.segments:
        shown = [Line(_nothing(findings))]
    else:
        present = [segment for segment in findings.segments if segment.mask[k].any()]
        shown = [_headline(segment) for segment in present[:MAXIMUM_LEGEND]]
        if len(present) > MAXIMUM_LEGEND:
            shown.append(Line(f"and {len(present) - MAXIMUM_LEGEND} more on this image"))
    results = _results(findings.measurements, findings.evaluations)[:HEADLINE]
    return [*shown, Line(", ".join(results))] if results else shown


def _nothing(findings: Findings) -> str:
    return f"No finding: {findings.title} ran on these images and segmented nothing."


def _headline(segment: Segment) -> Line:
    results = _results(segment.measurements, segment.evaluations)[:HEADLINE]
    return Line(": ".join([segment.label, ", ".join(results)]) if results else segment.label, swatch=segment.color)


def _results(measurements: Sequence[Measurement], evaluations: Sequence[Evaluation]) -> list[str]:
    return [*(_number(m) for m in measurements), *(f"{e.name.meaning} {e.value.meaning}" for e in evaluations)]


def _number(measurement: Measurement) -> str:
    name = measurement.name.meaning
    if measurement.derivation is not None:
        name = f"{name} ({measurement.derivation.meaning})"
    if measurement.value is None:
        assert measurement.missing is not None
        return f"{name}: none ({measurement.missing.meaning})"
    unit = "" if measurement.unit.value == "1" else f" {measurement.unit.value}"
    return f"{name} {_digits(measurement.value)}{unit}"


def _digits(value: float) -> str:
    """Format with three significant digits, or with all digits before the point."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(decimals, 0), 6)}f}"


def _text_pages(findings: Findings, unshown: int) -> Iterator[Image.Image]:
    """Write every result and note in words, as in the SR, for readers who do not see the SR."""
    head = [*_notice(findings), Line(f"{findings.title}: report")]
    lines = [wrapped for line in _text(findings, unshown) for wrapped in _wrapped(line)]
    fitting = SIDE // LINE - len(head) - 1
    for n in range(0, len(lines), fitting):
        page = Image.new("RGB", (SIDE, SIDE))
        _write(page, 0, head)
        _write(page, LINE * (len(head) + 1), lines[n : n + fitting])
        yield page


def _text(findings: Findings, unshown: int) -> list[Line]:
    lines = [] if findings.segments else [Line(_nothing(findings))]
    for segment in findings.segments:
        lines.append(Line(segment.label, swatch=segment.color))
        lines += [Line(f"- {text}") for text in _results(segment.measurements, segment.evaluations)]
    lines += [Line(text) for text in _results(findings.measurements, findings.evaluations)]
    lines += [Line(note) for note in findings.notes]
    if unshown:
        lines.append(Line(f"Key images that are not shown: {unshown}."))
    algorithm = findings.algorithm
    maker = f"{algorithm.name} {algorithm.version}, {algorithm.manufacturer}; trained on {algorithm.training_data}"
    return [*lines, Line(maker), Line("Automatic analysis; no human reviewed it.")]


def _wrapped(line: Line) -> list[Line]:
    """Break a line that is too long between words. Only its first part keeps the swatch."""
    parts = [""]
    for word in line.text.split():
        longer = f"{parts[-1]} {word}".strip()
        if parts[-1] and not _fits(longer, line):
            parts.append(word)
        else:
            parts[-1] = longer
    return [Line(part, line.color, None if n else line.swatch) for n, part in enumerate(parts)]


def _write(page: Image.Image, top: int, lines: Sequence[Line]) -> None:
    """Write lines one below the other from `top` on. A text that is too long for its line ends in an ellipsis."""
    draw = ImageDraw.Draw(page)
    for n, line in enumerate(lines):
        y = top + LINE * n + LINE // 2
        if line.swatch is not None:
            draw.rectangle((MARGIN, y - SWATCH // 2, MARGIN + SWATCH, y + SWATCH // 2), fill=line.swatch)
        text = drawable(line.text)
        while not _fits(text, line):
            text = text.removesuffix("…")[:-1] + "…"
        draw.text((_start(line), y), text, fill=line.color, font=font(TEXT), anchor="lm")


def _start(line: Line) -> int:
    return MARGIN if line.swatch is None else MARGIN + SWATCH + MARGIN // 2


def _fits(text: str, line: Line) -> bool:
    width: Any = font(TEXT).getlength(text)
    return bool(_start(line) + width <= SIDE - MARGIN)
