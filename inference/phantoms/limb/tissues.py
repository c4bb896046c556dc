"""The tissues of a limb and of the masses in it.

Relaxation times are of the order measured at 3 T (Stanisz et al. 2005, doi 10.1002/mrm.20605; Gold et al. 2004,
doi 10.2214/ajr.183.2.1830343); diffusivities of masses span those of sarcomas (Schnapauff et al. 2009,
doi 10.1002/jmri.21755).
"""

from inference.phantoms.signals import Tissue

SKIN = Tissue(900.0, 30.0, 0.7, 900.0, uptake=0.1)
FAT = Tissue(370.0, 70.0, 1.0, 50.0, fat=0.95)
FASCIA = Tissue(1000.0, 15.0, 0.5, 600.0)
MUSCLE = Tissue(1350.0, 34.0, 0.85, 1500.0, uptake=0.08)
CORTEX = Tissue(800.0, 1.0, 0.15, 100.0)
MARROW = Tissue(380.0, 65.0, 0.95, 150.0, fat=0.9)
VESSEL = Tissue(1900.0, 90.0, 0.25, 2500.0, uptake=0.8)  # The flow of blood takes most of the signal.
NERVE = Tissue(1150.0, 55.0, 0.8, 1100.0, uptake=0.05)
OEDEMA = Tissue(1550.0, 52.0, 0.9, 1900.0, uptake=0.15)  # of muscle
NECROTIC_TISSUE = Tissue(2600.0, 250.0, 1.0, 2300.0, uptake=0.02)
BLOOD = Tissue(480.0, 60.0, 0.95, 1100.0)  # subacute: methaemoglobin
CAPSULE = Tissue(1100.0, 22.0, 0.5, 900.0)

MASSES: tuple[tuple[str, float, Tissue, Tissue], ...] = (
    # The kind of mass, its frequency, and the two tissues between which each mass is drawn.
    ("cellular", 0.50, Tissue(1200.0, 60.0, 0.90, 800.0), Tissue(1700.0, 95.0, 1.00, 1500.0)),
    ("myxoid", 0.25, Tissue(1900.0, 140.0, 0.95, 1900.0), Tissue(2500.0, 220.0, 1.00, 2500.0)),
    ("lipomatous", 0.13, Tissue(420.0, 66.0, 0.95, 150.0, fat=0.8), Tissue(700.0, 60.0, 0.95, 700.0, fat=0.4)),
    ("haemorrhagic", 0.12, Tissue(650.0, 60.0, 0.90, 900.0), Tissue(1000.0, 80.0, 0.95, 1400.0)),
)
