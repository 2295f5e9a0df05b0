"""CIFAR-10, DenseNet-BC (100 layers, growth 12) x 5, the paper's recipe.

Command:  kdjax train --config=configs/cifar10_densenet_bc.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 350 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: the paper reports 94.02 -> 94.76 % (alone -> distilled) for student 1 and 92.85 -> 93.57 %
          for student 5 (OEC table 2, each run's best epoch). This configuration has not been run.
          The paper gives no batch size; 64 is DenseNet's own.
"""

import cifar10_resnet20


def get_config():
    config = cifar10_resnet20.get_config()
    config.network = "densenet_bc_100_12"
    config.batch_size = 64
    return config
