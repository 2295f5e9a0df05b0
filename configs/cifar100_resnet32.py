"""CIFAR-100, ResNet32 x 5, the paper's recipe.

Command:  kdjax train --config=configs/cifar100_resnet32.py --workdir=<dir>
Data:     kdjax prepare cifar100, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 450 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: the paper reports 70.21 -> 70.97 % (alone -> distilled) for student 1 and 39.12 -> 42.17 %
          for student 5 (single runs). This configuration has not been run at full length yet.
"""

import cifar10_resnet20


def get_config():
    config = cifar10_resnet20.get_config()
    config.network = "resnet32"
    config.data.name = "cifar100"
    config.epochs = 450
    return config
