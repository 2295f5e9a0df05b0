"""CIFAR-100, the teacher-student pairs of the usual table, plain distillation, published recipe.

Command:  kdjax distill --config=configs/distill_cifar100.py:resnet56_resnet20 --workdir=<dir>
Pairs:    resnet56_resnet20, resnet110_resnet20, resnet110_resnet32, wrn_40_2_wrn_16_2,
          wrn_40_2_wrn_40_1, vgg13_vgg8, and resnet50_mobilenet_v2, which is only close to the
          published pair
Data:     kdjax prepare cifar100, once
Cost:     one teacher and, with each of three seeds, the student distilled and alone side by side,
          240 epochs each; meant for a GPU or TPU
Expected: not run at full length yet. Published test accuracies in % (RepDistiller and DKD; each is
          of the run's best epoch on the test set, and a faithful re-run ends about .3 lower):

          pair                    teacher  alone    KD       DKD
          resnet56 -> resnet20    72.34    69.06    70.66    71.97
          resnet110 -> resnet20   74.31    69.06    70.67
          resnet110 -> resnet32   74.31    71.14    73.08    74.11
          wrn_40_2 -> wrn_16_2    75.61    73.26    74.92    76.23
          wrn_40_2 -> wrn_40_1    75.61    71.98    73.54    74.81
          vgg13 -> vgg8           74.64    70.36    72.98    74.68
          resnet50 -> mobilenet_v2         64.60    67.35    70.35

          The column DKD: --config.weights.soft=0 --config.weights.hard=1 --config.weights.dkd=1
          --config.dkd.other_weight=2 --config.weight_ramp.dkd=linear
          --config.weight_ramp.epochs=20 (for wide ResNets and VGG 6 in place of 2)
Differs:  from the published runs: the last epoch counts, not the best on the test set, and weight
          decay is on kernels only. The published networks of the last pair are different: a
          ResNet50 with a 3x3 stem (kdjax uses the ImageNet stem), and a MobileNetV2 of half width
          that halves images once more. The teacher of this pair is trained with the student's
          lower learning rate, unless you train it by itself with
          `kdjax train --config.method=independent` and name it with --config.teacher.workdir
References: Tian, Krishnan, Isola, *Contrastive Representation Distillation*, ICLR 2020 (recipe);
          Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022
"""

from kdjax import config as configuration

PAIRS = {  # name -> teacher, student, the student's width, learning rate
    "resnet56_resnet20": ("resnet56", "resnet20", 1.0, 0.05),
    "resnet110_resnet20": ("resnet110", "resnet20", 1.0, 0.05),
    "resnet110_resnet32": ("resnet110", "resnet32", 1.0, 0.05),
    "wrn_40_2_wrn_16_2": ("wrn_40_2", "wrn_16_2", 1.0, 0.05),
    "wrn_40_2_wrn_40_1": ("wrn_40_2", "wrn_40_1", 1.0, 0.05),
    "vgg13_vgg8": ("vgg13_bn", "vgg8_bn", 1.0, 0.05),
    "resnet50_mobilenet_v2": ("resnet50", "mobilenet_v2", 0.5, 0.01),
}


def get_config(pair: str = "resnet56_resnet20"):
    if pair not in PAIRS:
        raise ValueError(f"the pair is {pair!r}: known are {', '.join(PAIRS)}")
    config = configuration.distill_default()
    config.teacher.network, config.network, config.network_width, rate = PAIRS[pair]
    config.teacher.network_width = 1.0
    config.teacher.epochs = config.epochs = 240
    config.data.name = "cifar100"
    config.data.validation = 0.0
    config.data.crop_padding = 4
    config.data.flip = True
    config.batch_size = 64
    config.weights.hard = 0.1
    config.weights.soft = 0.9
    config.temperature = 4.0
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "step"
    config.schedule.learning_rate = rate
    config.schedule.boundaries = (150 / 240, 180 / 240, 210 / 240)
    config.schedule.warmup_epochs = 0.0
    config.evaluation.every_epochs = 10
    config.evaluation.batch_size = 500
    config.checkpoint.every_epochs = 10
    return config
