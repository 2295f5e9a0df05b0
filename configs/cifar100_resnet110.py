"""CIFAR-100, ResNet110 x 5, the paper's recipe: its headline result.

Command:  kdjax train --config=configs/cifar100_resnet110.py --workdir=<dir>
Data:     kdjax prepare cifar100, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 450 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: the paper reports 72.64 -> 72.81 % (alone -> distilled) for student 1 and 42.26 -> 46.76 %
          for student 5 (single runs; elsewhere it reports 69.37 to 71.89 % for student 1). This
          configuration has not been run at full length yet.
"""

import cifar100_resnet32


def get_config():
    config = cifar100_resnet32.get_config()
    config.network = "resnet110"
    return config
