"""The units that fit each quantity, because no validator of DICOM objects notices a volume in mm."""

from pydicom.sr.codedict import Collection, codes

from inference.contract.findings import Measurement

LENGTHS = frozenset({"um", "mm", "cm", "m"})
AREAS = frozenset({"um2", "mm2", "cm2"})
VOLUMES = frozenset({"um3", "mm3", "cm3", "dm3", "uL", "ul", "mL", "ml", "L", "l"})
TIMES = frozenset({"us", "ms", "s"})
DIFFUSIVITIES = frozenset({"um2/s", "um2/ms", "mm2/s", "10-3.mm2/s", "10-6.mm2/s", "10*-3.mm2/s", "10*-6.mm2/s"})
FRACTIONS = frozenset({"1", "%", "{ratio}"})

# (code value, scheme) of the quantity -> units (UCUM). The context groups of PS3.16 say which quantities are lengths
# (CID 7470), areas (CID 7471) and volumes (CID 7472); the others are those that the applications measure.
FITTING = {
    (code.value, code.scheme_designator): units
    for concepts, units in (
        (Collection("CID7470").concepts.values(), LENGTHS),
        (Collection("CID7471").concepts.values(), AREAS),
        (Collection("CID7472").concepts.values(), VOLUMES),
        ((codes.DCM.T1, codes.DCM.T2, codes.DCM.T2Star), TIMES),
        (
            (codes.DCM.ApparentDiffusionCoefficient, codes.DCM.MonoExponentialApparentDiffusionCoefficient),
            DIFFUSIVITIES,
        ),
        ((codes.DCM.FatFraction, codes.DCM.Probability), FRACTIONS),
    )
    for code in concepts
}
PLAIN_NUMBERS = frozenset({codes.DCM.Skewness.value, codes.DCM.Kurtosis.value})


def check_unit(measurement: Measurement) -> None:
    """Raise ValueError if the unit does not fit the quantity. A quantity that is not listed fits any unit."""
    unit, derivation = measurement.unit, measurement.derivation
    fitting = FITTING.get((measurement.name.value, measurement.name.scheme))
    if derivation is not None and derivation.value in PLAIN_NUMBERS:
        fitting = FRACTIONS  # the skewness of T1 values is no time
    if fitting is not None and (unit.scheme != "UCUM" or unit.value not in fitting):
        raise ValueError(f"{measurement.name.meaning} cannot be in {unit.value} ({unit.scheme})")
