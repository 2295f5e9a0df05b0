"""The embedded digits, 20 labels per class: a wide ResNet teaches a thin ResNet8.

Command:  kdjax distill --config=configs/distill_digits.py, or kdjax distill without a file
Cost:     one teacher, then the student distilled and alone for each of seven seeds: under 3 minutes
          on 2 CPU cores
Recipe:   plain distillation with the published weights, .1 and .9 at temperature 4; chosen on
          validation splits of other seeds (experiments/distill)
Expected: shows how much the student gains from the teacher; experiments/distill has a recorded run
"""

from kdjax import config as configuration


def get_config():
    return configuration.first_run("distill")
