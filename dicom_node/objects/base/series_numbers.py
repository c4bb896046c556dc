"""The SeriesNumber of each kind of result object, so that numbers tell application, side, edition and kind apart.

A number is the sum of the first number of the application, a step for each earlier result, a step for the side, and
the offset of the kind. The numbers are far above those of scanners, so that viewers list results last.
"""

FIRST_SERIES = 9000  # of the first application; the next one begins APPLICATION_STEP later
APPLICATION_STEP = 10000
EDITION_STEP = 100
EDITIONS = APPLICATION_STEP // EDITION_STEP  # after so many results of a study the numbers begin again
SIDE_STEPS = {"L": 20, "R": 40}

SEG_SERIES = 1
SR_SERIES = 2
FIRST_PM_SERIES = 3  # each map has a series of its own, up to 9
RTSTRUCT_SERIES = 10
SC_SERIES = 11
KO_SERIES = 12
NO_RESULT_SERIES = 13
REJECTION_SERIES = 14
