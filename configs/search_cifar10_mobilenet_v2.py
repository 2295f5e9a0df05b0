"""CIFAR-10, MobileNetV2 at half the FLOPs and 5.2 times fewer parameters, both at once.

Command:  kdjax search --config=configs/search_cifar10_mobilenet_v2.py --workdir=<dir>
Data:     kdjax prepare cifar10, once; a tenth of train is held out for validation, with
          --config.data.validation=0 all 50,000 images are trained on
Cost:     200 + 100 epochs, then three compact networks for 200 epochs, three times; meant for a GPU
          or TPU
Expected: not run at full length yet. CCSL reports 1.05 points above the uncompressed network at
          this cost (ICPR 2020, abstract).
"""

import search_cifar10_resnet56


def get_config():
    config = search_cifar10_resnet56.get_config()
    config.network = "mobilenet_v2"
    config.search.target.flops = 0.5
    config.search.target.params = 1 / 5.2
    return config
