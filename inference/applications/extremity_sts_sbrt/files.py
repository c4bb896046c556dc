"""Files that this application reads in addition to its model's. They count in the hash that its results carry."""

FILES = (("gate", "t1w"),)
