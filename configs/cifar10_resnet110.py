"""CIFAR-10, ResNet110 x 5, the paper's recipe.

Command:  kdjax train --config=configs/cifar10_resnet110.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 350 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: the paper reports 93.51 -> 94.24 % (alone -> distilled) for student 1 and 92.27 -> 93.28 %
          for student 5 (single runs, on CIFAR-10 itself). This configuration has not been run at
          full length yet.
"""

import cifar10_resnet20


def get_config():
    config = cifar10_resnet20.get_config()
    config.network = "resnet110"
    return config
