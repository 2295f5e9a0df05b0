"""ImageNet, ResNet18 x 5, streamed from disk, the paper's recipe.

Command:  kdjax train --config=configs/imagenet_resnet18.py --workdir=<dir>
Data:     as for imagenet_mobilenet_v2.py
Cost:     2 runs of 100 epochs (two methods, one seed); meant for several GPUs or a TPU pod, with
          --config.data.workers as large as the host's cores allow
Expected: the paper reports 69.73 -> 70.47 % (alone -> distilled) for student 1 and 55.23 -> 58.52 %
          for student 5 (OEC table 6, each run's best epoch). This configuration has not been run.
          Other networks of that table:
          --config.network=resnet34, resnet50, resnet101, densenet121 or resnext50_32x4d.
"""

import imagenet_mobilenet_v2


def get_config():
    config = imagenet_mobilenet_v2.get_config()
    config.network = "resnet18"
    config.label_smoothing = 0.0
    config.epochs = 100
    config.batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.learning_rate = 0.1
    config.schedule.warmup_epochs = 0.0
    return config
