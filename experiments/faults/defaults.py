"""The defaults of all fields: the embedded digits with all labels, on which runs are disturbed."""

from kdjax import config as configuration


def get_config(kind: str = "train"):
    return {"train": configuration.default, "search": configuration.search_default}[kind]()
