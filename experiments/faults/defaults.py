"""The configuration of the disturbed runs: all defaults, the embedded digits with all labels."""

from kdjax import config as configuration


def get_config(kind: str = "train"):
    return {"train": configuration.default, "search": configuration.search_default}[kind]()
