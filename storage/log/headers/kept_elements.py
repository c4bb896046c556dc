"""The list of the elements that are kept of each header, so that nobody opens the instance again.

Whoever reads another element from headers, between reception and the worker, adds it here and raises LIST_VERSION.
Attributes of the patient are never on the list, but for the age.
"""

from dataclasses import dataclass

from pydicom.datadict import dictionary_VR

LIST_VERSION = 1

_IDENTIFICATION = (
    0x00080005,  # Specific Character Set
    0x00080016,  # SOP Class UID
    0x00080018,  # SOP Instance UID
    0x00080060,  # Modality
    0x0020000D,  # Study Instance UID
    0x0020000E,  # Series Instance UID
)
# inference/headers/images.py: the images among the objects of a series
_IMAGES = (
    0x00080008,  # Image Type
    0x00200013,  # Instance Number
    0x00200032,  # Image Position (Patient)
    0x00200037,  # Image Orientation (Patient)
    0x00280002,  # Samples per Pixel
    0x00280010,  # Rows
    0x00280011,  # Columns
)
# inference/volumes/planes.py and tiles.py: volumes, and what tells them apart
_PLANES = (
    0x00180088,  # Spacing Between Slices
    0x00200012,  # Acquisition Number
    0x00200052,  # Frame of Reference UID
    0x00200100,  # Temporal Position Identifier
    0x00280008,  # Number of Frames
    0x00280030,  # Pixel Spacing
)
# inference/series: image_facts.py, agent.py and the recogniser
_PHYSICS = (
    0x00080070,  # Manufacturer
    0x00080032,  # Acquisition Time
    0x00089208,  # Complex Image Component
    0x00089209,  # Acquisition Contrast
    0x00180010,  # Contrast/Bolus Agent
    0x00180012,  # Contrast/Bolus Agent Sequence
    0x00180020,  # Scanning Sequence
    0x00180021,  # Sequence Variant
    0x00180022,  # Scan Options
    0x00180023,  # MR Acquisition Type
    0x00180024,  # Sequence Name
    0x00180025,  # Angio Flag
    0x00180080,  # Repetition Time
    0x00180081,  # Echo Time
    0x00180082,  # Inversion Time
    0x00180087,  # Magnetic Field Strength
    0x00180091,  # Echo Train Length
    0x00181041,  # Contrast/Bolus Volume
    0x00181042,  # Contrast/Bolus Start Time
    0x00181060,  # Trigger Time
    0x00181090,  # Cardiac Number of Images
    0x00181314,  # Flip Angle
    0x00189005,  # Pulse Sequence Name
    0x00189014,  # Phase Contrast
    0x00189015,  # Time of Flight Contrast
    0x00189016,  # Spoiling
    0x00189017,  # Steady State Pulse Sequence
    0x00189037,  # Cardiac Synchronization Technique
    0x00189252,  # ASL Technique Description
    0x00189342,  # Contrast/Bolus Agent Administered
    0x00200060,  # Laterality
    0x00200062,  # Image Laterality
    0x00200105,  # Number of Temporal Positions
    0x00209072,  # Frame Laterality
    0x00281054,  # Rescale Type
)
# inference/series/image_facts.py: functional groups at the top level of classic images, and what they would hold
_GROUPS = (
    0x00089124,  # Derivation Image Sequence
    0x00089215,  # Derivation Code Sequence
    0x00189112,  # MR Timing and Related Parameters Sequence
    0x00189226,  # MR Image Frame Type Sequence
    0x00189251,  # MR Arterial Spin Labeling Sequence
    0x00189341,  # Contrast/Bolus Usage Sequence
    0x00209071,  # Frame Anatomy Sequence
    0x00209113,  # Plane Position Sequence
    0x00289145,  # Pixel Value Transformation Sequence
    0x004008EA,  # Measurement Units Code Sequence
    0x00409096,  # Real World Value Mapping Sequence
    0x00409220,  # Quantity Definition Sequence
)
# inference/headers/diffusion.py
_DIFFUSION = (
    0x00189075,  # Diffusion Directionality
    0x00189087,  # Diffusion b-value
    0x00189089,  # Diffusion Gradient Orientation
    0x00204000,  # Image Comments
)
# inference/headers/body_parts.py
_BODY_PARTS = (
    0x00082218,  # Anatomic Region Sequence
    0x00180015,  # Body Part Examined
)
# inference/series: recogniser.py and site_table.py, dicom_node/read/series_names.py: what people call a series
_NAMES = (
    0x0008103E,  # Series Description
    0x00081010,  # Station Name
    0x00181030,  # Protocol Name
    0x00200011,  # Series Number
)
# inference/contract/study_rule.py: what `when` of an application compares
_STUDY_RULES = (
    0x00080021,  # Series Date
    0x00081030,  # Study Description
    0x00081032,  # Procedure Code Sequence
    0x00101010,  # Patient's Age
    0x00321060,  # Requested Procedure Description
    0x00321064,  # Requested Procedure Code Sequence
    0x00400254,  # Performed Procedure Step Description
    0x00400275,  # Request Attributes Sequence
)
# dicom_node/read/visits.py: the order of the studies of a patient
_VISITS = (
    0x00080020,  # Study Date
    0x00080022,  # Acquisition Date
    0x0008002A,  # Acquisition DateTime
    0x00080030,  # Study Time
)
# storage/log/comparison.py: the geometry and the values of an image that comes again
_COMPARISON = (
    0x00180050,  # Slice Thickness
    0x00280101,  # Bits Stored
    0x00280102,  # High Bit
    0x00280103,  # Pixel Representation
    0x00281052,  # Rescale Intercept
    0x00281053,  # Rescale Slope
)

KEPT_ELEMENTS = frozenset(
    (
        *_IDENTIFICATION,
        *_IMAGES,
        *_PLANES,
        *_PHYSICS,
        *_GROUPS,
        *_DIFFUSION,
        *_BODY_PARTS,
        *_NAMES,
        *_STUDY_RULES,
        *_VISITS,
        *_COMPARISON,
    )
)
SEQUENCES = frozenset(tag for tag in KEPT_ELEMENTS if dictionary_VR(tag) == "SQ")

SIEMENS_CSA = b"SIEMENS CSA HEADER"


@dataclass(frozen=True)
class PrivateBlock:
    """The elements that are kept of a private block, each by the lower byte of its number.

    `usual` is the block in which scanners put them. If the creators of the whole group were lost, the elements are
    found there.
    """

    group: int
    creator: bytes
    elements: frozenset[int]
    usual: int = 0x10


# inference/headers/diffusion.py, image_content.py and pepolar.py, inference/series/image_facts.py, inference/volumes
PRIVATE_BLOCKS = (
    # b-value, direction of the gradient
    PrivateBlock(0x0019, b"SIEMENS MR HEADER", frozenset({0x0C, 0x0E})),
    # names of the sequence, user data 12, direction of the gradient
    PrivateBlock(0x0019, b"GEMS_ACQU_01", frozenset({0x9C, 0x9E, 0xB3, 0xBB, 0xBC, 0xBD})),
    # the CSA header of the image, trimmed to what `CSA_NAMES` names
    PrivateBlock(0x0029, SIEMENS_CSA, frozenset({0x10})),
    # component of the complex signal, b-value
    PrivateBlock(0x0043, b"GEMS_PARM_01", frozenset({0x2F, 0x39})),
    # b-value; the measured one, and its direction; number and places of the slices of a tiled image
    PrivateBlock(0x0065, b"Image Private Header", frozenset({0x09, 0x37, 0x50, 0x51})),
    # b-value, phase number, echo planar factor, name of the sequence, SPIR
    PrivateBlock(0x2001, b"Philips Imaging DD 001", frozenset({0x03, 0x08, 0x13, 0x20, 0x21})),
    # component of the complex signal, direction of the gradient
    PrivateBlock(0x2005, b"Philips MR Imaging DD 001", frozenset({0x11, 0xB0, 0xB1, 0xB2})),
    # label or control
    PrivateBlock(0x2005, b"Philips MR Imaging DD 005", frozenset({0x29}), usual=0x14),
)
# inference/volumes/tiles.py reads these of a mosaic
CSA_NAMES = (b"NumberOfImagesInMosaic", b"SliceNormalVector")

# Objects with these have a header for each frame, which is not kept.
FUNCTIONAL_GROUPS = frozenset({0x52009229, 0x52009230})
