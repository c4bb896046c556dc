"""Files that this application reads beside those of its model. They are part of the hash that its results carry."""

FILES = (("classification", "weights"), ("gate", "t1w"))
