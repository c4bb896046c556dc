"""The greatest lengths of values, in characters (PS3.5 6.2)."""

SH_LENGTH = 16
LO_LENGTH = 64
