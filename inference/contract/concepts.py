"""Coded concepts that applications share: public ones by their number, the others from the table docs/codes.md."""

from inference.contract.findings import Code

SCHEME = "99DCMNODE"

ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMICAL = Code("91723000", "SCT", "Anatomical Structure")
MASS = Code("4147007", "SCT", "Mass")
NECROSIS = Code("6574001", "SCT", "Necrosis")
EDEMA = Code("79654002", "SCT", "Edema")
BONE = Code("272673000", "SCT", "Bone")
BUNDLE = Code("nv-bundle", SCHEME, "Neurovascular bundle")

VOLUME = Code("118565006", "SCT", "Volume")
LONG_AXIS = Code("103339001", "SCT", "Long axis")
SHORT_AXIS = Code("103340004", "SCT", "Short axis")
MAXIMUM_3D = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
PROBABILITY = Code("122157", "DCM", "Probability")
BUNDLE_DISTANCE = Code("130557", "DCM", "Distance from neurovascular bundle")
BONE_DISTANCE = Code("bone-distance", SCHEME, "Distance from bone")
FASCIA_DEPTH = Code("fascia-depth", SCHEME, "Depth of the mass below the deep fascia")
NECROTIC = Code("necrosis-percent", SCHEME, "Part of the mass that is necrotic")

CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
UNCERTAIN = Code("64957009", "SCT", "Uncertain")
OVER_5_CM = Code("over-5-cm", SCHEME, "Largest diameter exceeds 5 cm")
YES = Code("373066001", "SCT", "Yes")
NO = Code("373067005", "SCT", "No")

MALIGNANCY = Code("predicted-class", SCHEME, "Predicted malignancy")
BENIGN = Code("30807003", "SCT", "Benign")
MALIGNANT = Code("21594007", "SCT", "Malignant")
INDETERMINATE = Code("280416009", "SCT", "Indeterminate result")
GRADES = tuple(
    Code(f"p-grade-{n}", SCHEME, f"Probability of predicted grade {n} if malignant") for n in (1, 2, 3)
)  # fmt: skip

RESPONSE_METHOD = Code("112021", "DCM", "Response Evaluation Method")
RECIST_1_1 = Code("126081", "DCM", "RECIST 1.1")
RESPONSE = Code("112048", "DCM", "Current Response")
DIAMETER_SUM = Code("recist-sum", SCHEME, "Sum of the longest diameters of target lesions")
DIAMETER_CHANGE = Code("diameter-change", SCHEME, "Change of the sum of diameters from baseline")
NADIR_CHANGE = Code("nadir-change", SCHEME, "Change of the sum of diameters from nadir")
VOLUME_CHANGE = Code("volume-change", SCHEME, "Change of volume from baseline")
ADC_CHANGE = Code("adc-change", SCHEME, "Change of the mean ADC from baseline")

DIFFUSION_ANALYSIS = Code("129105", "DCM", "Diffusion image analysis")
FAT_ANALYSIS = Code("fat-analysis", SCHEME, "Computation of the fat fraction from Dixon images")

CM3 = Code("cm3", "UCUM", "cubic centimeter")
MM = Code("mm", "UCUM", "mm")
PERCENT = Code("%", "UCUM", "percent")
NO_UNIT = Code("1", "UCUM", "no units")
