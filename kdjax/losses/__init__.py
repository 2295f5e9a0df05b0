"""Distillation losses: pure functions on arrays, independent of the rest of kdjax.

Every function computes in float32, whatever dtype it is given. Losses return one value per example:
the caller knows which examples are padding, and takes the mean. Losses that compare the examples of
a batch with each other take that mask as ``where`` and, if several devices share the batch, their
``axis_name`` (:mod:`kdjax.losses.global_batch`). For these losses too, the mean of the returned
values over the real examples of the whole batch is the published loss.
"""

from kdjax.losses.attention import attention_transfer
from kdjax.losses.crd import CRDMemory, crd, crd_memory, crd_negatives, crd_update
from kdjax.losses.dist import dist
from kdjax.losses.distillation import distillation_loss
from kdjax.losses.dkd import dkd
from kdjax.losses.ensemble import ensemble_logits, online_ensemble_loss
from kdjax.losses.features import feature_mse
from kdjax.losses.fsp import fsp
from kdjax.losses.hard_labels import hard_label_cross_entropy, likeliest_class
from kdjax.losses.mlkd import mlkd_batch, mlkd_class
from kdjax.losses.nkd import nkd
from kdjax.losses.nst import nst
from kdjax.losses.pkt import pkt
from kdjax.losses.relations import rkd
from kdjax.losses.review import review_kd
from kdjax.losses.similarity import similarity_preserving
from kdjax.losses.soft_targets import soft_target_kl
from kdjax.losses.standardize import standardize_logits
from kdjax.losses.teacher_rules import (
    accuracy_weights,
    best_logits,
    gated_logits,
    leave_one_out_logits,
    min_margin_logits,
    pairwise_logits,
    wider_only_logits,
)
from kdjax.losses.vid import vid

__all__ = [
    "CRDMemory",
    "accuracy_weights",
    "attention_transfer",
    "best_logits",
    "crd",
    "crd_memory",
    "crd_negatives",
    "crd_update",
    "dist",
    "distillation_loss",
    "dkd",
    "ensemble_logits",
    "feature_mse",
    "fsp",
    "gated_logits",
    "hard_label_cross_entropy",
    "leave_one_out_logits",
    "likeliest_class",
    "min_margin_logits",
    "mlkd_batch",
    "mlkd_class",
    "nkd",
    "nst",
    "online_ensemble_loss",
    "pairwise_logits",
    "pkt",
    "review_kd",
    "rkd",
    "similarity_preserving",
    "soft_target_kl",
    "standardize_logits",
    "vid",
    "wider_only_logits",
]
