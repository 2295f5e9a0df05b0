"""The embedded digits, a tenth of a narrow ResNet8's parameters: `kdjax search` without a file.

Command:  kdjax search --config=configs/search_digits.py
Cost:     teacher, search, and three networks for each of seven seeds: under 3 minutes on 2 CPUs
Expected: the budget is met; in the run recorded in experiments/search_digits, the network found is
          more accurate than one thinned uniformly to as many parameters; experiments/search_peer
          has the results of eight searches
"""

from kdjax import config as configuration


def get_config():
    return configuration.first_run("search")
