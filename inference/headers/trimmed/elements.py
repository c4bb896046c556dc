"""The list of the elements that classic images are read by to make volumes.

Whoever asks for another element, from `inference/volumes/reading.py` on, adds it here. A test compares the list with
what is asked, because an element that is not on it would be absent from every header.
"""

SPECIFIC_CHARACTER_SET = 0x00080005
IMAGE_TYPE = 0x00080008
UIDS = (0x00080018, 0x0020000D, 0x0020000E)  # of instance, study and series

_PUBLIC = (
    SPECIFIC_CHARACTER_SET,
    IMAGE_TYPE,
    *UIDS,
    0x00080016,  # SOP Class UID
    0x00080060,  # Modality
    0x00080070,  # Manufacturer
    0x00089208,  # Complex Image Component
    0x00180024,  # Sequence Name
    0x00180080,  # Repetition Time
    0x00180081,  # Echo Time
    0x00180082,  # Inversion Time
    0x00181060,  # Trigger Time
    0x00181314,  # Flip Angle
    0x00189005,  # Pulse Sequence Name
    0x00189075,  # Diffusion Directionality
    0x00189087,  # Diffusion b-value
    0x00189089,  # Diffusion Gradient Orientation
    0x00200012,  # Acquisition Number
    0x00200013,  # Instance Number
    0x00200032,  # Image Position (Patient)
    0x00200037,  # Image Orientation (Patient)
    0x00200052,  # Frame of Reference UID
    0x00200100,  # Temporal Position Identifier
    0x00204000,  # Image Comments
    0x00280002,  # Samples per Pixel
    0x00280004,  # Photometric Interpretation
    0x00280008,  # Number of Frames
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280030,  # Pixel Spacing
    0x00280100,  # Bits Allocated
    0x00280101,  # Bits Stored
    0x00280103,  # Pixel Representation
    0x00281052,  # Rescale Intercept
    0x00281053,  # Rescale Slope
    0x00281054,  # Rescale Type
    0x00283000,  # Modality LUT Sequence
    0x00409096,  # Real World Value Mapping Sequence
)
# The lower bytes of private elements, by group: those of all creators, in every block.
_PRIVATE = {
    0x0019: (0x0C, 0x0E, 0x9C, 0x9E, 0xB3, 0xBB, 0xBC, 0xBD),
    0x0043: (0x2F, 0x39),
    0x0065: (0x09, 0x37),
    0x2001: (0x03, 0x08),
    0x2005: (0x0E, 0x11, 0x29, 0xB0, 0xB1, 0xB2),
}
_BLOCKS = range(0x10, 0x100)

# Enhanced and tiled images keep what they are read by in elements that are large and many, so these are not listed.
FUNCTIONAL_GROUPS = frozenset({0x52009229, 0x52009230})
TILED = (b"MOSAIC", b"VFRAME")  # in Image Type

VOLUME_ELEMENTS = frozenset(
    (
        *_PUBLIC,
        *(group << 16 | block for group in _PRIVATE for block in _BLOCKS),
        *(group << 16 | block << 8 | at for group, own in _PRIVATE.items() for block in _BLOCKS for at in own),
    )
)
