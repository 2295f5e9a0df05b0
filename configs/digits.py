"""The embedded digits, 20 labels per class, ResNet8 x 5: what `kdjax train` does without a file.

Command:  kdjax train --config=configs/digits.py
Cost:     12 runs (two methods, six seeds) in under 3 minutes on 2 CPU cores
Recipe:   labels and soft targets at full weight, no feature term, and a teacher in which the wide
          students have the largest shares; chosen on validation splits of other seeds
          (experiments/digits)
Expected: distillation gains the students accuracy on average, and most for the thinnest one;
          experiments/digits has a recorded run
"""

from kdjax import config as configuration


def get_config():
    return configuration.first_run("train")
