"""ResNet8 whose stem is trained by the full network only: other students just read its output."""

import dataclasses

import jax

from kdjax import models
from kdjax.models import resnet


class Reader(resnet.Branch):
    """A branch that passes no gradient to the stem."""

    def __call__(self, x, train, mask):
        return super().__call__(jax.lax.stop_gradient(x), train, mask)


class StemFromPivot(resnet.ResNet):
    @property
    def executions(self):
        return ("sequential",)

    def branch(self, widths, **module_fields):
        kind = resnet.Branch if dict(widths) == dict(self.widths) else Reader
        return kind(tuple(self.plan(widths)), self.num_classes, **module_fields)


def create(num_classes):
    network = models.create("resnet8", num_classes)
    fields = dataclasses.fields(network)
    return StemFromPivot(**{field.name: getattr(network, field.name) for field in fields})
