"""The embedded digits, ResNet8 x 5 with five eighths of its width: the default of `kdjax train`.

Command:  kdjax train --config=configs/digits.py
Cost:     six runs (two methods, three seeds) in under 3 minutes on 2 CPU cores
Recipe:   as in the paper, but the feature term grows from 0 over the run: on networks this small it
          otherwise holds the thinnest student back (chosen on the validation split)
Expected: student 1 at 98 % test or more; see experiments/digits/ for a recorded run
"""

from kdjax import config as configuration


def get_config():
    return configuration.default()
