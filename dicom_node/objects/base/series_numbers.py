"""The SeriesNumber of each kind of result object, far above those of scanners, so that viewers list results last."""

SEG_SERIES = 9001
SR_SERIES = 9002
FIRST_PM_SERIES = 9003  # each map has a series of its own, up to 9009
RTSTRUCT_SERIES = 9010
SC_SERIES = 9011
KO_SERIES = 9012
NO_RESULT_SERIES = 9013
REJECTION_SERIES = 9014
