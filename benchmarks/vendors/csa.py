"""CSA headers as Siemens scanners write them: tags by name, values as text, the protocol of the scan among them.

The layout is that of `inference/headers/csa.py`. Each tag has room for more items than it has values, as the real ones
have. All values are made up here.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

HEAD = b"SV10\x04\x03\x02\x01"
MARK = 77  # what the scanner writes where nothing is meant
EMPTY_ITEMS = 6
IMAGE_NUMBERS = (
    "EchoLinePosition", "EchoColumnPosition", "EchoPartitionPosition", "UsedChannelMask", "Actual3DImaPartNumber",
    "ICE_Dims", "Filter1", "Filter2", "ProtocolSliceNumber", "RealDwellTime", "PixelFile", "PixelFileName",
    "SliceMeasurementDuration", "SequenceMask", "AcquisitionMatrixText", "MeasuredFourierLines",
    "FlowEncodingDirection", "FlowVenc", "PhaseEncodingDirectionPositive", "NumberOfImagesInMosaic",
    "DiffusionGradientDirection", "ImageGroup", "SliceNormalVector", "DiffusionDirectionality", "TimeAfterStart",
    "FlipAngle", "SequenceName", "RepetitionTime", "EchoTime", "NumberOfAverages", "VoxelThickness",
    "VoxelPhaseFOV", "VoxelReadoutFOV", "VoxelPositionSag", "VoxelPositionCor", "VoxelPositionTra",
    "VoxelNormalSag", "VoxelNormalCor", "VoxelNormalTra", "VoxelInPlaneRot", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceLocation", "SliceThickness", "SpectrumTextRegionLabel",
    "Comp_Algorithm", "Comp_Blended", "Comp_ManualAdjusted", "Comp_AutoParam", "Comp_AdjustedParam", "Comp_JobID",
    "FMRIStimulInfo", "FlowEncodingDirectionString", "RepetitionTimeEffective", "CsiImagePositionPatient",
    "CsiImageOrientationPatient", "CsiPixelSpacing", "CsiSliceLocation", "CsiSliceThickness",
    "OriginalSeriesNumber", "OriginalImageNumber", "ImaAbsTablePosition", "NonPlanarImage", "MoCoQMeasure",
    "LQAlgorithm", "SlicePosition_PCS", "RBMoCoTrans", "RBMoCoRot", "MultistepIndex", "ImaRelTablePosition",
    "ImaCoilString", "RFSWDDataType", "GSWDDataType", "NormalizeManipulated", "ImaPATModeText", "B_matrix",
    "BandwidthPerPixelPhaseEncode", "FMRIStimulLevel", "MosaicRefAcqTimes", "AutoInlineImageFilterEnabled",
    "QCData",
)  # fmt: skip
SERIES_TEXTS = (
    "UsedPatientWeight", "NumberOfPrescans", "TransmitterCalibration", "PhaseGradientAmplitude",
    "ReadoutGradientAmplitude", "SelectionGradientAmplitude", "GradientDelayTime", "RfWatchdogMask",
    "RfPowerErrorIndicator", "SarWholeBody", "Sed", "SequenceFileOwner", "Stim_mon_mode", "Operation_mode_flag",
    "dBdt_max", "t_puls_max", "dBdt_thresh", "dBdt_limit", "SW_korr_faktor", "Stim_max_online",
    "Stim_max_ges_norm_online", "Stim_lim", "Stim_faktor", "CoilForGradient", "CoilForGradient2",
    "CoilTuningReflection", "CoilId", "MiscSequenceParam", "MrProtocolVersion", "DataFileName",
    "RepresentativeImage", "PositivePCSDirections", "RelTablePosition", "ReadoutOS", "LongModelName",
    "SliceArrayConcatenations", "SliceResolution", "AbsTablePosition", "AutoAlignMatrix", "MeasurementIndex",
    "CoilString", "PATModeText", "PatReinPattern", "ProtocolChangeHistory", "Isocentered",
)  # fmt: skip

Values = Mapping[str, Sequence[str]]


def image_header(values: Values) -> bytes:
    """The block of one image, about 11 KB. `values` are those that are not made up from the names."""
    return _block({name: values.get(name, (f"{len(name) * 0.875:.8f}",)) for name in (*IMAGE_NUMBERS, *values)}, 0)


@cache
def series_header(series: int, size: int) -> bytes:
    """The block that all images of a series share, `size` bytes; the protocol takes what the other tags leave."""
    values = {name: (f"{series}.{len(name)}",) for name in SERIES_TEXTS}
    room = size - len(_block(values, 0)) - 84 - 16 * EMPTY_ITEMS - 8
    return _block({**values, "MrPhoenixProtocol": (_protocol(series, room),)}, size)


def _protocol(series: int, size: int) -> str:
    lines, length = ["### ASCCONV BEGIN ###"], 22
    for line in _parameters(series):
        if length + len(line) + 1 > size - 22:
            break
        lines.append(line)
        length += len(line) + 1
    return "\n".join((*lines, "### ASCCONV END ###"))


def _parameters(series: int) -> Iterator[str]:
    yield 'tSequenceFileName = "%SiemensSeq%\\\\tse"'
    yield f"lProtonFreq[0] = {123_200_000 + series}"
    n = 0
    while True:
        for axis in ("dSag", "dCor", "dTra"):
            yield f"sSliceArray.asSlice[{n}].sPosition.{axis}\t=\t{(n * 3.3 + series) % 97:.9f}"
        yield f"sSliceArray.asSlice[{n}].dThickness\t=\t3.0"
        yield f'sCoilSelectMeas.aRxCoilSelectData[0].asList[{n}].sCoilElementID.tElement\t=\t"HE{n % 64}"'
        yield f"sWipMemBlock.adFree[{n}]\t=\t{n * 0.125}"
        n += 1


def _block(tags: Values, size: int) -> bytes:
    parts = [HEAD, struct.pack("<2I", len(tags), MARK)]
    for number, (name, values) in enumerate(tags.items()):
        items = max(EMPTY_ITEMS, len(values))
        parts.append(
            struct.pack("<64si4s3i", name.encode(), len(values), b"FD" if number % 3 else b"LO", 4, items, MARK)
        )
        for item in (*values, *[""] * (items - len(values))):
            text = item.encode() + b"\0" if item else b""
            parts += [struct.pack("<4i", len(text), len(text), MARK, len(text)), text, bytes(-len(text) % 4)]
    content = b"".join(parts)
    return content + bytes(max(size - len(content), len(content) % 2))
