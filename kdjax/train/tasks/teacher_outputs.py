"""The outputs of fixed teachers for whole splits."""

from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.train.program.feed import Feed
from kdjax.train.program.fixed_teachers import FixedTeachers
from kdjax.train.tasks.experiment import Experiment


class TeacherOutputs:
    """Computes the outputs of teachers for whole splits, without augmentation."""

    def __init__(self, experiment: Experiment, feed: Feed, teachers: FixedTeachers, variables: Any):
        """Prepares to compile; puts the variables on the devices.

        Args:
          experiment: the experiment, for its devices.
          feed: the feed of the examples.
          teachers: the networks.
          variables: what :func:`kdjax.train.tasks.distill_teachers.variables_of` returns.
        """
        self._parallel, self._feed = experiment.parallel, feed
        self._variables = self._parallel.replicate(variables)
        axis_name = self._parallel.axis_name

        def run(variables: Any, data: Any, given: Any) -> Any:
            batch = feed.evaluation_batch(data, given, self._parallel.device_index())
            logits = [outputs.logits for outputs in teachers.each(variables, batch.images)]
            rows = jnp.stack(logits, axis=1), batch.labels, batch.mask
            return rows if axis_name is None else jax.tree.map(dealt_back, rows)

        def dealt_back(rows: chex.Array) -> chex.Array:
            # Row i of a batch is on device i modulo the number of devices.
            every = jnp.moveaxis(jax.lax.all_gather(rows, axis_name), 0, 1)
            return every.reshape(-1, *every.shape[2:])

        self._run = self._parallel.compile(run)

    def logits(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the teachers' logits for a split, and its labels.

        The logits are ``[examples, teachers, classes]`` float32, the labels ``[examples]``.
        """
        parts = list(self._parts(split))
        logits, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return logits, labels

    def _parts(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        inputs = self._feed.evaluation_inputs(split, self._feed.sizes[split])
        results = (self._run(self._variables, self._feed.data, given) for given in inputs)
        for logits, labels, mask in self._parallel.fetched(results):
            yield logits[mask], labels[mask]

    def accuracies(self) -> dict[str, list[float]]:
        """Returns each teacher's accuracy for ``test`` and, if there is one, ``validation``.

        The accuracy of their averaged logits comes last.

        Raises:
          ArithmeticError: if an output is not finite.
        """
        found = {}
        for split in ("test", "validation"):
            if self._feed.sizes[split]:
                logits, labels = self.logits(split)
                if not np.isfinite(logits).all():
                    bad = int(np.argmin(np.isfinite(logits).all(axis=(0, 2)))) + 1
                    raise ArithmeticError(f"the output of teacher {bad} is not finite")
                every = np.concatenate([logits, logits.mean(axis=1, keepdims=True)], axis=1)
                right = every.argmax(axis=-1) == labels[:, None]
                found[split] = right.mean(axis=0).tolist()
        return found
