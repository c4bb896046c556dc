"""Whether every result object is valid, by every validator there is: `python -m tests.conformance`."""
