"""CIFAR-10, ResNet20 x 5, the paper's recipe.

Command:  kdjax train --config=configs/cifar10_resnet20.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     6 runs of 350 epochs (two methods, three seeds); meant for a GPU or TPU
Expected: the paper reports 91.34 -> 92.13 % (alone -> distilled) for student 1 and 89.67 -> 91.03 %
          for student 5 (single runs, OEC table 1); experiments/ has recorded runs of kdjax.
"""

from kdjax import config as configuration


def get_config():
    config = configuration.default()
    config.network = "resnet20"
    config.network_width = 1.0
    config.data.name = "cifar10"
    config.data.crop_padding = 4
    config.data.flip = True
    config.weight_ramp.feature = "constant"
    config.epochs = 350
    config.batch_size = 128
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 0.0
    config.evaluation.every_epochs = 1
    config.evaluation.batch_size = 500
    return config
