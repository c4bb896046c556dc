"""Files that this application reads beside those of its model. They are part of the hash that its results carry."""

FILES = (("gate", "t1w"),)
