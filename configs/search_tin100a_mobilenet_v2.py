"""tin100a (100 Tiny-ImageNet classes at 32 x 32), MobileNetV2 at half FLOPs and 1/5.2 parameters.

Command:  kdjax search --config=configs/search_tin100a_mobilenet_v2.py --workdir=<dir>
Data:     a prepared TFDS directory named tin100a under $TFDS_DATA_DIR (50,000 train and 5,000
          test images); it is not in the TFDS catalogue, so `kdjax prepare` cannot make it
Cost:     200 epochs for the teacher, 100 for the search, then three small networks for 200 epochs
          with each of three seeds; meant for a GPU or TPU
Expected: not run at full length yet.
"""

import search_cifar10_mobilenet_v2


def get_config():
    config = search_cifar10_mobilenet_v2.get_config()
    config.data.name = "tin100a"
    return config
