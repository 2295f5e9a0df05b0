"""The compiled functions of one method; they are compiled once and used by every seed."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from kdjax.data.mixing import mixed
from kdjax.models.initialize import draw
from kdjax.train.devices.parallel import Parallel
from kdjax.train.program import non_finite
from kdjax.train.program.feed import Feed, steps_per_epoch
from kdjax.train.program.layout import Layouts
from kdjax.train.program.methods import Method, first_memory
from kdjax.train.program.optimizer import learning_rate_schedule, make_optimizer
from kdjax.train.program.state import TrainState
from kdjax.train.program.step import Metrics, evaluation_step, mixing_key, train_step
from kdjax.train.program.term_modules import LossInputs

Wrap = Callable[[optax.GradientTransformation, optax.Schedule], optax.GradientTransformation]


class Runner:
    """Compiled training and evaluation of one method on one dataset.

    The data and a fixed teacher do not change between steps. They are on the devices from the
    start, and are arguments of the compiled functions, not constants in them. Variables are vectors
    on the devices (:mod:`kdjax.train.program.layout`) and trees on the host.

    Attributes:
      method: the networks and their losses.
      feed: where batches come from.
      steps_per_dispatch: training steps in one call of :meth:`steps`.
      schedule: a function from the step to the learning rate.
    """

    def __init__(
        self,
        method: Method,
        config: ml_collections.ConfigDict,
        feed: Feed,
        parallel: Parallel,
        *,
        teacher: Any = None,
        wrap: Wrap | None = None,
    ):
        """Prepares the functions that will be compiled.

        Args:
          method: what is trained.
          config: the configuration; ``epochs``, ``schedule``, ``optimizer``, ``compute``,
            ``evaluation``, ``data.mixup`` and ``data.cutmix`` are read.
          feed: where batches come from.
          parallel: the devices.
          teacher: host variables of a fixed teacher, if the method has one.
          wrap: ``(optimizer, schedule) -> optimizer``: wraps the configured optimiser; both work
            on trees.
        """
        self.method = method
        self.feed = feed
        self.steps_per_epoch = steps_per_epoch(feed)
        self.schedule = learning_rate_schedule(config.schedule, config.epochs, self.steps_per_epoch)
        self.steps_per_dispatch = feed.most_steps(
            steps_per_dispatch(config.compute.steps_per_dispatch, self.steps_per_epoch, parallel)
        )
        self._mixing = {"mixup": config.data.mixup, "cutmix": config.data.cutmix}
        self._guarded = config.faults.non_finite != "stop"
        self._joined_losses = config.compute.batch_losses == "global"
        self._parallel = parallel
        self._teacher = None if teacher is None else parallel.replicate(teacher)
        self._initial = method.initial(feed.image_shape, feed.sizes["train"])
        self._shapes = self._initial.start.shapes
        self._layouts = Layouts.of(
            self._shapes,
            outputs_first=parallel.devices[0].platform == "gpu",
            merged=method.model.execution.pack == "all",
            by_student=method.separate,
        )
        optimizer = make_optimizer(config.optimizer, self.schedule, separate=method.separate)
        if wrap is not None:
            optimizer = wrap(optimizer, self.schedule)
            self._optimizer = self._layouts.params.optimizer(optimizer)
        elif method.separate and config.optimizer.clip_norm > 0:
            # Gradients are clipped by each network's own norm, but a vector holds all networks.
            self._optimizer = self._layouts.params.optimizer_by_network(optimizer)
        else:
            self._optimizer = optimizer
        self._optimizer_shapes = jax.eval_shape(optimizer.init, self._shapes["params"])
        # A full dispatch runs all its steps and checks nothing. The last dispatch of an epoch may
        # be shorter, so its program checks before every step whether to run it.
        self._full_dispatch = parallel.compile(
            functools.partial(self._run_steps, bounded=False), donate=[0]
        )
        self._short_dispatch = parallel.compile(
            functools.partial(self._run_steps, bounded=True), donate=[0]
        )
        self._evaluate = parallel.compile(self._run_evaluation)

    @property
    def networks(self) -> dict[str, list[str]]:
        """The networks that the flags of :mod:`kdjax.train.program.non_finite` refer to."""
        return non_finite.networks(self._layouts.params.names, self._layouts.batch_stats.names)

    def initial_state(self, seed: int) -> TrainState:
        """The state before step 0, on the host."""
        variables = draw(self._initial.start, seed)
        return TrainState(
            step=np.int32(0),
            key=np.asarray(jax.random.key_data(jax.random.key(seed))),
            params=variables["params"],
            batch_stats=variables.get("batch_stats", {}),
            # Optimiser states start as zeros, so no initialisation has to be compiled.
            optimizer_state=jax.tree.map(
                lambda leaf: np.zeros(leaf.shape, leaf.dtype), self._optimizer_shapes
            ),
            memory=first_memory(self.method, self._initial, variables["params"], seed),
        )

    def place(self, state: TrainState) -> TrainState:
        """Copies a host state to the devices."""
        return self._parallel.replicate(self._layouts.join_state(state))

    def fetch(self, state: TrainState) -> TrainState:
        """Copies one replica of a device state to the host."""
        return self._layouts.split_state(self._parallel.unreplicate(state))

    def epoch(self, state: TrainState, step: int) -> Iterator[Any]:
        """The inputs of :meth:`steps`, one per dispatch, from ``step`` to the end of its epoch."""
        return self.feed.epoch(state, step, self.steps_per_dispatch)

    def steps(
        self, state: TrainState, inputs: Iterator[Any], step: int, end: int
    ) -> tuple[TrainState, Metrics, int]:
        """Runs up to ``steps_per_dispatch`` training steps, none past ``end``.

        Args:
          state: the state at ``step``; it is donated and must not be used again.
          inputs: the inputs of the epoch of ``step``, from :meth:`epoch`; one is consumed.
          step: the number of steps done so far.
          end: the step to stop at, at most the end of the epoch.

        Returns:
          ``(state, metrics, taken)``. Metrics are per step, ``[steps_per_dispatch, ...]``, with
          count 0 for steps not taken; :meth:`to_host` reads them.
        """
        taken = min(self.steps_per_dispatch, end - step)
        run = self._full_dispatch if taken == self.steps_per_dispatch else self._short_dispatch
        given = next(inputs)
        state, metrics = run(state, self.feed.data, self._teacher, given, self._scalar(end))
        return state, metrics, taken

    def compile_steps(
        self, state: TrainState, inputs: Iterator[Any]
    ) -> tuple[Any, dict[str, float]]:
        """Compiles full dispatches now instead of at the first call, and measures the time.

        Args:
          state: as :meth:`steps` takes it; it is not donated.
          inputs: the inputs of an epoch; one is consumed.

        Returns:
          The compiled program, and the seconds of ``trace`` (to XLA's input) and ``compile``.
        """
        started = time.perf_counter()
        given = next(inputs)
        lowered = self._full_dispatch.lower(
            state, self.feed.data, self._teacher, given, self._scalar(0)
        )
        traced = time.perf_counter()
        self._full_dispatch = lowered.compile()
        seconds = {"trace": traced - started, "compile": time.perf_counter() - traced}
        return self._full_dispatch, seconds

    def start_max(self, flag: int) -> Any:
        """Starts to compute the largest flag of all processes; :meth:`read_max` waits for it."""
        return self._parallel.start_max(flag)

    def read_max(self, answer: Any) -> int:
        """Waits for the result of :meth:`start_max` and returns it."""
        return self._parallel.read_max(answer)

    def to_host(self, metrics: Metrics) -> Metrics:
        """Returns metrics as NumPy arrays; waits until their steps are done."""
        return self._parallel.unreplicate(metrics)

    def evaluate(
        self, variables: Any, split: str, limit: int | None = None
    ) -> dict[str, np.ndarray]:
        """Returns the means of the metrics over the examples of a split.

        Args:
          variables: variables on the devices, from a state or from :meth:`place_variables`.
          split: ``train``, ``validation`` or ``test``; it must not be empty.
          limit: how many of its examples to use, from the first on; a stream uses whole batches.
            None: all.

        Returns:
          ``hard`` and ``accuracy`` ``[students]``, ``ensemble_accuracy`` scalar; float64.
        """
        inputs = self.feed.evaluation_inputs(split, limit or self.feed.sizes[split])
        results = (self._evaluate(variables, self.feed.data, given) for given in inputs)
        parts = list(self._parallel.fetched(results))

        def total(name: str, which: int) -> np.ndarray:
            return np.asarray(sum(np.asarray(part[name][which], np.float64) for part in parts))

        return {name: total(name, 0) / total(name, 1) for name in parts[0]}

    def place_variables(self, variables: Any) -> Any:
        """Copies host variables to the devices."""
        return self._parallel.replicate(self._layouts.join(variables))

    def _scalar(self, value: int) -> chex.Array:
        return self._parallel.replicate(np.int32(value))

    def _run_steps(
        self,
        state: TrainState,
        data: Any,
        teacher: Any,
        given: Any,
        end: chex.Array,
        *,
        bounded: bool,
    ) -> tuple[TrainState, Metrics]:
        method = self._method_of_vectors()

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            key = jax.random.wrap_key_data(state.key)
            device = self._parallel.device_index()
            batch = self.feed.train_batch(data, given, key, state.step, device)
            if any(self._mixing.values()):
                classes = self.method.model.architecture.num_classes
                batch = mixed(batch, mixing_key(state), device, classes=classes, **self._mixing)
            return train_step(
                state,
                batch,
                method=method,
                optimizer=self._optimizer,
                weights=self.method.weights(state.step),
                teacher=self.method.teacher_for_batch(teacher, batch),
                axis_name=self._parallel.axis_name,
                joined_losses=self._joined_losses,
                guarded=self._guarded,
                layouts=self._layouts,
            )

        stop = end if bounded else None
        return repeat(step, state, self.steps_per_dispatch, stop=stop)

    def _method_of_vectors(self) -> Method:
        """The method, changed to take variables as vectors, as they lie on the devices."""

        def forward(
            variables: Any, teacher: Any, images: chex.Array, mask: chex.Array, key: Any = None
        ) -> tuple[LossInputs, Any]:
            if self.method.copies_decay:
                teacher = self._layouts.params.split(teacher)
            inputs, batch_stats = self.method.forward(
                self._layouts.split(variables), teacher, images, mask, key
            )
            return inputs, self._layouts.batch_stats.join(batch_stats)

        def observe(state: TrainState, metrics: Mapping[str, Any]) -> dict[str, Any]:
            return self.method.observe(
                state.replace(**self._layouts.split(state.variables)), metrics
            )

        return dataclasses.replace(self.method, forward=forward, observe=observe)

    def _run_evaluation(self, variables: Any, data: Any, given: Any) -> Metrics:
        batch = self.feed.evaluation_batch(data, given, self._parallel.device_index())
        return evaluation_step(
            self._layouts.split(variables),
            batch,
            method=self.method,
            axis_name=self._parallel.axis_name,
        )


def repeat(
    step: Callable[[TrainState], tuple[TrainState, Metrics]],
    state: TrainState,
    count: int,
    *,
    stop: chex.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """Runs several training steps in one computation.

    Args:
      step: the function of one step: state -> (state, metrics).
      state: the state before the first step.
      count: how many steps.
      stop: an integer scalar; steps of the run from this one on are skipped. None: no step is
        skipped.

    Returns:
      The state after the last step, and the metrics with a new first axis, ``[count, ...]``.
    """
    if count == 1:
        # Do not put a single step in a loop: inside a loop, XLA on CPU runs the automatic gradients
        # of grouped convolutions far slower.
        state, metrics = step(state)
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    def taken(state: TrainState) -> tuple[TrainState, Metrics]:
        if stop is None:
            return step(state)
        shapes = jax.eval_shape(step, state)[1]
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(state.step < stop, step, lambda state: (state, nothing), state)

    # Set while the body is traced: finding it from shapes would trace the whole step once more.
    unravel: list[Callable[[chex.Array], Metrics]] = []

    def body(state: TrainState, _: None) -> tuple[TrainState, chex.Array]:
        # Metrics are many small arrays. Storing each one separately would take a kernel each.
        state, metrics = taken(state)
        row, back = jax.flatten_util.ravel_pytree(metrics)
        unravel[:] = [back]
        return state, row

    state, rows = jax.lax.scan(body, state, length=count)
    return state, jax.vmap(unravel[0])(rows)


def steps_per_dispatch(requested: int, epoch: int, parallel: Parallel) -> int:
    """Returns how many training steps go into one dispatch.

    The default is 1 on CPU (see :func:`repeat`). On other backends it is at most 64: the largest
    divisor of the epoch's steps from 16 to 64 if there is one, because then no step of a dispatch
    has to be skipped.

    Args:
      requested: ``config.compute.steps_per_dispatch``; 0: the backend's default.
      epoch: training steps of an epoch.
      parallel: the devices.
    """
    if requested:
        return min(requested, epoch)
    if parallel.devices[0].platform == "cpu":
        return 1
    divisors = [n for n in range(16, 65) if epoch % n == 0]
    return divisors[-1] if divisors else min(64, epoch)
