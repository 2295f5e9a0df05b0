"""The embedded digits, 20 labels a class, ResNet8 x 5: what `kdjax train` does without a file.

Command:  kdjax train --config=configs/digits.py
Cost:     12 runs (two methods, six seeds) in under 3 minutes on 2 CPU cores
Recipe:   labels and soft targets at full weight, no feature term, a teacher that listens to the
          wide students; chosen on validation splits of other seeds (experiments/digits)
Expected: a gain for the students on average, and above all for the thinnest; experiments/digits
          has a recorded run
"""

from kdjax import config as configuration


def get_config():
    return configuration.first_run("train")
