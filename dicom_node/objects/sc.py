"""Secondary Capture, multi-frame True Color (PS3.3 A.8.5): key images with outlines and numbers, and a report as text.

It is for viewers that show neither SEG nor SR. All pictures are frames of a single object, so that they are sent,
refused and committed together and keep their order. A viewer that ignores frames shows the first picture.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

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
from dicom_node.objects.base.value_lengths import SH_LENGTH, short_names
from dicom_node.objects.drawing.outline import boundaries, key_slice
from dicom_node.objects.drawing.pictures import PixelBox, draw_marks, letters, windowed
from dicom_node.objects.drawing.text import MARGIN, Color, Line, line_height, wrapped, write
from inference.contract.findings import Evaluation, Findings, Measurement, Segment
from inference.volumes.volume import FrameReference, Volume
from storage.records.results import ObjectKind

SIDE = 768  # pixels of a frame, which is square; shown at 512 x 512, its text is TEXT * 2 / 3 high
TEXT = 24
SMALLEST_TEXT = 14  # where a legend of TEXT would take more than half of the picture
LINE = line_height(TEXT)
STROKE = 3
MAXIMUM_KEY_IMAGES = 8
MAXIMUM_LEGEND = 4  # segments named under a key image, more only if all of them are largest there
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")  # PS3.3 C.7.6.1.1.5
HEADLINE = 3  # numbers of a segment, or of the whole study, under a key image; the text pages have all

AMBER: Color = (255, 191, 0)
# Units as radiologists read them; others are shown as UCUM has them.
UNITS = {
    "1": "", "{ratio}": "", "mm2": "mm²", "cm2": "cm²", "mm3": "mm³", "cm3": "cm³",
    "um2/s": "x10⁻⁶ mm²/s", "um2/ms": "x10⁻³ mm²/s", "mm2/s": "mm²/s",
    "10-6.mm2/s": "x10⁻⁶ mm²/s", "10*-6.mm2/s": "x10⁻⁶ mm²/s",
    "10-3.mm2/s": "x10⁻³ mm²/s", "10*-3.mm2/s": "x10⁻³ mm²/s",
}  # fmt: skip
SIDE_NAMES = {"L": "left", "R": "right"}


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
    names = [_name(source.frames[k], headers) for k in slices]
    pages = _pages(findings, context, slices, names, unshown=len(labels) - len(slices))
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
    names = short_names([segment.label for segment in findings.segments], SH_LENGTH)
    for segment, name in zip(findings.segments, names, strict=True):
        labels.setdefault(key_slice(segment.mask), name)
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


def _pages(
    findings: Findings, context: ObjectContext, slices: Sequence[int], names: Sequence[str], unshown: int
) -> list[Image.Image]:
    """Draw a page for each slice, then the report as text. The picture has the same size on all key images."""
    blocks = [wrapped(block, SIDE, TEXT) for block in _text(findings, unshown)]
    titles = [*(f"{findings.title}: {name}" for name in names), f"{findings.title}: report"]
    longest = max(len(_head(findings, context, f"{title} (page 99 of 99)")) for title in titles)
    fitting = SIDE // LINE - longest - 1
    parts = _filled(blocks, fitting)
    count = len(slices) + len(parts)
    size, feet = _feet(findings, slices)
    bottom = SIDE - line_height(size) * max(len(foot) for foot in feet) - MARGIN
    pages = []
    for number, title in enumerate([*titles[:-1], *titles[-1:] * len(parts)], 1):
        page = Image.new("RGB", (SIDE, SIDE))
        write(page, 0, _head(findings, context, f"{title} (page {number} of {count})"), TEXT)
        top = LINE * longest + MARGIN // 2
        if number <= len(slices):
            _draw_slice(page, (0, top, SIDE, bottom), findings, slices[number - 1])
            write(page, bottom + MARGIN // 2, feet[number - 1], size)
        else:
            write(page, LINE * (longest + 1), parts[number - len(slices) - 1], TEXT)
        pages.append(page)
    return pages


def _head(findings: Findings, context: ObjectContext, title: str) -> list[Line]:
    lines = [*_notice(findings), Line(title)]
    if context.side in SIDE_NAMES:
        lines.append(Line(f"Analysed: the {SIDE_NAMES[context.side]} side"))
    if context.edition > 1:
        lines.append(Line(f"Result r{context.edition} replaces the earlier ones.", AMBER))
    return wrapped(lines, SIDE, TEXT)


def _feet(findings: Findings, slices: Sequence[int]) -> tuple[int, list[list[Line]]]:
    """Return the legend of each slice, and the size of its text: as large as half of the picture allows."""
    for size in range(TEXT, SMALLEST_TEXT - 1, -2):
        feet = [wrapped(_legend(findings, k), SIDE, size) for k in slices]
        if line_height(size) * max(len(foot) for foot in feet) <= SIDE // 2:
            break
    return size, feet


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
    """List the segments that are drawn on slice `k`, with their headline numbers, then those of the whole study.

    The segments for which the slice is the key slice come first, and all of them are listed.
    """
    if not findings.segments:
        shown = [Line(_nothing(findings))]
    else:
        present = [segment for segment in findings.segments if segment.mask[k].any()]
        own = [segment for segment in present if key_slice(segment.mask) == k]
        others = [segment for segment in present if key_slice(segment.mask) != k]
        named = [*own, *others[: max(MAXIMUM_LEGEND - len(own), 0)]]
        shown = [_headline(segment) for segment in named]
        if len(present) > len(named):
            shown.append(Line(f"and {len(present) - len(named)} more on this image"))
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
    unit = UNITS.get(measurement.unit.value, measurement.unit.value)
    return f"{name} {_digits(measurement.value)} {unit}".rstrip()


def _digits(value: float) -> str:
    """Format with three significant digits, and without an exponent."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{rounded:.{min(max(decimals, 0), 6)}f}"


def _text(findings: Findings, unshown: int) -> list[list[Line]]:
    """Return the report in blocks, which a page keeps together: one for each segment, then the others."""
    segments = [
        [
            Line(segment.label, swatch=segment.color),
            *(Line(f"- {text}") for text in _results(segment.measurements, segment.evaluations)),
        ]
        for segment in findings.segments
    ] or [[Line(_nothing(findings))]]
    lines = [Line(text) for text in _results(findings.measurements, findings.evaluations)]
    lines += [Line(note) for note in findings.notes]
    if unshown:
        lines.append(Line(f"Key images that are not shown: {unshown}."))
    algorithm = findings.algorithm
    maker = f"{algorithm.name} {algorithm.version}, {algorithm.manufacturer}; trained on {algorithm.training_data}"
    rest = [*lines, Line(maker), Line("Automatic analysis; no human reviewed it.")]
    return [*segments, *([line] for line in rest)]


def _filled(blocks: Sequence[Sequence[Line]], fitting: int) -> list[list[Line]]:
    """Distribute blocks over pages of `fitting` lines. Only a block of more than a page is split."""
    pages: list[list[Line]] = [[]]
    for block in blocks:
        if pages[-1] and len(pages[-1]) + len(block) > fitting:
            pages.append([])
        for line in block:
            if len(pages[-1]) == fitting:
                pages.append([])
            pages[-1].append(line)
    return pages
