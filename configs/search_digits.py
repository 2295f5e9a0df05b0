"""The embedded digits: half the FLOPs of a narrow ResNet8. The default of `kdjax search`.

Command:  kdjax search --config=configs/search_digits.py
Cost:     teacher, search, and three networks for each of three seeds: under 4 minutes on 2 CPUs
Expected: the budget met, all networks within a point of each other; see experiments/search_digits/
"""

from kdjax import config as configuration


def get_config():
    return configuration.search_default()
