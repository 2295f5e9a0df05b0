"""CIFAR-10, VGG16 with batch normalisation at half the FLOPs and a tenth of the parameters.

Command:  kdjax search --config=configs/search_cifar10_vgg16.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     200 epochs for the teacher, 100 for the search, then three small networks for 200 epochs
          with each of three seeds; meant for a GPU or TPU
Expected: not run at full length yet. Network Slimming reports 93.78 % for a VGG19 with 2.25 of 20.0
          million parameters, and 93.77 % for its baseline (ICCV 2017; another depth and recipe).
"""

import search_cifar10_resnet56


def get_config():
    config = search_cifar10_resnet56.get_config()
    config.network = "vgg16_bn"
    config.search.target.flops = 0.5
    config.search.target.params = 0.1
    return config
