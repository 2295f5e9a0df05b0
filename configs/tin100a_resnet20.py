"""tin100a (100 Tiny-ImageNet classes at 32 x 32), ResNet20 x 5, the paper's CIFAR-100 recipe.

Command:  kdjax train --config=configs/tin100a_resnet20.py --workdir=<dir>
Data:     a prepared TFDS directory named tin100a under $TFDS_DATA_DIR (50,000 train and 5,000
          test images); it is not in the TFDS catalogue, so `kdjax prepare` cannot make it. A tenth
          of train is held out for validation, unless --config.data.validation=0 is given
Cost:     6 runs of 450 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: no published figure exists; this configuration has not been run at full
          length yet.
"""

import cifar10_resnet20


def get_config():
    config = cifar10_resnet20.get_config()
    config.data.name = "tin100a"
    config.epochs = 450
    return config
