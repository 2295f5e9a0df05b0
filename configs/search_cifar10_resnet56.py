"""CIFAR-10, ResNet56 at 2.13 times fewer FLOPs.

Command:  kdjax search --config=configs/search_cifar10_resnet56.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     200 epochs for the teacher, 100 for the search, then three small networks for 200 epochs
          with each of three seeds; meant for a GPU or TPU
Expected: not run at full length yet. At this cost DepGraph reports 93.77 % for a baseline of
          93.53 % (CVPR 2023; another recipe).
"""

from kdjax import config as configuration


def get_config():
    config = configuration.search_default()
    config.network = "resnet56"
    config.network_width = 1.0
    config.data.name = "cifar10"
    config.data.crop_padding = 4
    config.data.flip = True
    config.batch_size = 128
    config.teacher.epochs = 200
    config.search.epochs = 100
    config.distil.epochs = 200
    config.search.target.flops = 1 / 2.13
    config.evaluation.every_epochs = 5
    config.evaluation.batch_size = 500
    return config
