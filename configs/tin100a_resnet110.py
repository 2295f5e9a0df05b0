"""tin100a (100 Tiny-ImageNet classes at 32 x 32), ResNet110 x 5, the paper's CIFAR-100 recipe.

Command:  kdjax train --config=configs/tin100a_resnet110.py --workdir=<dir>
Data:     as for tin100a_resnet20.py
Cost:     6 runs of 450 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: no published figure exists; this configuration has not been run at full
          length yet.
"""

import tin100a_resnet20


def get_config():
    config = tin100a_resnet20.get_config()
    config.network = "resnet110"
    return config
