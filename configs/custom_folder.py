"""Your own images: one folder per class, ResNet20 x 5.

Command:  kdjax train --config=configs/custom_folder.py:<dir> --workdir=<dir>
Data:     <dir>/<class>/<image>, or <dir>/train/<class>/... with val/ and test/ beside it; without
          a test folder a stratified 20 % of train is held out, without a val folder 10 %. If the
          images have different sizes, set --config.data.image_size='(64, 64)'
Cost:     6 runs of 100 epochs (two methods, three seeds)
Expected: depends on your data
"""

import cifar10_resnet20


def get_config(folder: str = "images"):
    config = cifar10_resnet20.get_config()
    config.data.name = f"folder:{folder}"
    config.epochs = 100
    config.batch_size = 64
    config.schedule.name = "cosine"
    return config
