"""CIFAR-10, MobileNetV2 at half the FLOPs and 5.2 times fewer parameters, both at once.

Command:  kdjax search --config=configs/search_cifar10_mobilenet_v2.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation;
          --config.data.validation=0 trains on all 50,000 images
Cost:     200 epochs for the teacher, 100 for the search, then three small networks for 200 epochs
          with each of three seeds; meant for a GPU or TPU
Expected: not run at full length yet. CCSL reports an accuracy 1.05 points above that of the
          uncompressed network at this cost (ICPR 2020, abstract).
"""

import search_cifar10_resnet56


def get_config():
    config = search_cifar10_resnet56.get_config()
    config.network = "mobilenet_v2"
    config.search.target.flops = 0.5
    config.search.target.params = 1 / 5.2
    return config
