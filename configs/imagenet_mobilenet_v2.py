"""ImageNet, MobileNetV2 x 5, streamed from disk.

Command:  kdjax train --config=configs/imagenet_mobilenet_v2.py --workdir=<dir>
Data:     imagenet2012 prepared by TFDS as array_record, under $TFDS_DATA_DIR; or a folder with
          train/<class>/<image> and test/<class>/<image>: --config.data.name=folder:<dir>
Cost:     2 runs of 150 epochs (two methods, one seed); meant for several GPUs or a TPU pod, with
          --config.data.workers as large as the host's cores allow
Expected: no published figure exists for five students; this configuration has not been run.
          MobileNetV2 alone reaches 72.0 % in its paper (Sandler et al., CVPR 2018), with a longer
          recipe.
"""

from kdjax import config as configuration


def get_config():
    config = configuration.default()
    config.network = "mobilenet_v2_imagenet"
    config.network_width = 1.0
    config.seeds = (0,)
    config.data.name = "imagenet2012"
    config.data.memory = "stream"
    config.data.image_size = (224, 224)
    config.data.validation = 0.01
    config.data.flip = True
    config.data.workers = 16
    config.data.crop_padding = 0
    config.label_smoothing = 0.1
    config.weight_ramp.feature = "constant"
    config.epochs = 150
    config.batch_size = 1024
    config.compute.dtype = "bfloat16"
    config.optimizer.weight_decay = 4e-5
    config.schedule.learning_rate = 0.4
    config.schedule.warmup_epochs = 5.0
    config.evaluation.every_epochs = 1
    config.evaluation.batch_size = 1000
    config.checkpoint.every_epochs = 1
    return config
