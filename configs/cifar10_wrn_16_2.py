"""CIFAR-10, WRN-16-2 x 5, the recipe of the paper's ResNets.

Command:  kdjax train --config=configs/cifar10_wrn_16_2.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 350 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: no published figure exists, since the paper has no wide ResNets for small images. This
          configuration has not been run.
"""

import cifar10_resnet20


def get_config():
    config = cifar10_resnet20.get_config()
    config.network = "wrn_16_2"
    config.optimizer.weight_decay = 5e-4
    return config
