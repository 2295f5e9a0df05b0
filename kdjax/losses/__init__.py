"""Distillation losses: pure functions on arrays that know nothing else of kdjax.

Every function computes in float32 whatever comes in, accepts any leading batch shape and leaves
the average over the batch to its caller, who alone knows the mask.
"""

from kdjax.losses.distillation import distillation_loss
from kdjax.losses.ensemble import ensemble_logits, online_ensemble_loss
from kdjax.losses.features import feature_mse
from kdjax.losses.hard_labels import hard_label_cross_entropy
from kdjax.losses.soft_targets import soft_target_kl

__all__ = [
    "distillation_loss",
    "ensemble_logits",
    "feature_mse",
    "hard_label_cross_entropy",
    "online_ensemble_loss",
    "soft_target_kl",
]
