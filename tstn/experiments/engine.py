"""The training loop of every experiment: on a CPU, a GPU, or many of them on many hosts.

Hugging Face accelerate places the network, averages gradients over processes and scales half precision losses; what
decides the numbers is here. Batches are functions of seed and iteration, the learning rate of the iteration, and all
random numbers are seeded anew in each iteration: a checkpoint needs nothing but weights, the optimiser's state and the
iteration to go on as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm import tqdm

from tstn.experiments import checkpoint
from tstn.experiments.config import Config, ExperimentError
from tstn.experiments.configs import experiment_of
from tstn.experiments.history import History, Outcome
from tstn.experiments.logs import Log
from tstn.experiments.looks import Look, look
from tstn.experiments.optim import make_optimizer, set_lr
from tstn.experiments.task import Shard, Task, derived_seed

# Test samples that the learning curve is measured on; the final error is on all.
CURVE_SAMPLES = 1000
# Pictures of an animation of where the transformers look.
SNAPSHOTS = 100


@dataclass(frozen=True)
class Setup:
    """How a run is carried out; on a CPU nothing here changes its numbers.

    Attributes:
        folder: The run's, for checkpoints and logs.
        data_root: The folder of the data; None: the data set's default.
        checkpoint_seconds: Shortest time between two checkpoints.
        max_seconds: Stop with a checkpoint after this time; None: never.
        tensorboard: Whether to log for TensorBoard too.
        workers: Processes that read images, for data that lie in files.
    """

    folder: Path
    data_root: Path | None = None
    checkpoint_seconds: float = 60.0
    max_seconds: float | None = None
    tensorboard: bool = False
    workers: int = 0


def make_accelerator(device: str, precision: str) -> Accelerator:
    """The processes and the device to train on.

    Raises:
        ExperimentError: If the device is not there, or cannot compute in this precision.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if device not in ("auto", "cpu") and (found is None or found.type != device):
        has = f"only {found.type}" if found is not None else "none but the CPU"
        raise ExperimentError(f"--device {device} cannot be used: PyTorch {torch.__version__} finds {has} here")
    cpu = device == "cpu" or found is None
    if precision == "fp16" and cpu:
        raise ExperimentError("--precision fp16 needs a GPU; on a CPU take bf16 or fp32")
    if not cpu:
        # PyTorch's own default is TF32 in convolutions but not in products of matrices.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    return Accelerator(cpu=cpu, mixed_precision=precision if precision in ("bf16", "fp16") else "no")


class Run:
    """One training run: its network, its data and where it stands.

    Args:
        config: What to train.
        setup: How.
        accelerator: Where.
        state: The checkpoint to go on from; None: a new network.

    Raises:
        CheckpointError: If the checkpoint is another run's.
    """

    def __init__(
        self, config: Config, setup: Setup, accelerator: Accelerator, state: checkpoint.State | None = None
    ) -> None:
        self.config, self.recipe, self.accelerator = config, config.recipe, accelerator
        self.setup = setup
        self.shard = Shard(accelerator.process_index, accelerator.num_processes)
        experiment = experiment_of(config)
        # The first process downloads what is missing; the others find it.
        with accelerator.local_main_process_first():
            self.task: Task = experiment.task(config, setup.data_root, accelerator.device, setup.workers)
        torch.manual_seed(config.seed)
        self.raw = experiment.models[config.model].make(config)
        self.parameters = sum(p.numel() for p in self.raw.parameters() if p.requires_grad)
        self.raw.to(accelerator.device)
        if state is None:
            self.task.prepare(self.raw, config.seed)
        optimizer = make_optimizer(self.raw, self.recipe)
        model = self.raw
        if config.compile:
            # CUDA graphs where there is CUDA.
            mode = "reduce-overhead" if accelerator.device.type == "cuda" else "default"
            model = torch.compile(model, mode=mode)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.iteration = 0
        self.seconds = 0.0
        self.history = History()
        if state is not None:
            self._restore(state)

    def state(self) -> checkpoint.State:
        """What a checkpoint holds."""
        scaler = self.accelerator.scaler
        return {
            "config": self.config.to_dict(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "model": self.raw.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "history": self.history.to_dict(),
        }

    def _restore(self, state: checkpoint.State) -> None:
        if state["config"] != self.config.to_dict():
            raise checkpoint.CheckpointError(
                f"{self.setup.folder} holds a checkpoint of another configuration: delete it, or give --fresh"
            )
        self.raw.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.history = History(**state["history"])

    def step(self, batch: tuple[Tensor, ...]) -> Tensor:
        """One iteration; the loss, of this process's share of the batch."""
        # Dropout's masks: other ones in each process, and the same after a restart.
        torch.manual_seed(derived_seed(self.config.seed, "step", self.iteration, self.shard.rank))
        set_lr(self.optimizer, self.recipe, self.iteration)
        with self.accelerator.autocast():
            loss = self.task.loss(self.model, batch)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.recipe.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.optimizer.step()
        self.iteration += 1
        return loss.detach().float()

    def error(self, limit: int | None = None) -> float:
        """Test error in percent, on all of the test set or on the first ``limit`` samples."""
        with self._evaluation():
            counts = self.task.count_wrong(self.raw, self.shard, limit)
        wrong, total = summed(self.accelerator, counts).tolist()
        return 100 * wrong / total

    def looks(self) -> list[Look]:
        """What the transformers do with the example images."""
        with self._evaluation():
            return look(self.raw, lambda: self.task.answers(self.raw))

    def answers(self) -> list[tuple[str, bool]]:
        """What the network says of the example images, and whether that is right."""
        with self._evaluation():
            return self.task.answers(self.raw)

    def snapshot(self) -> None:
        """Record where the transformers look in the example images."""
        looks = self.looks()
        self.history.snapshot.append(self.iteration)
        self.history.theta.append([item.theta.cpu() for item in looks])

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        self.raw.eval()
        with torch.no_grad(), self.accelerator.autocast():
            yield
        self.raw.train()

    def is_evaluated(self) -> bool:
        """Whether the learning curve has a point at this entry of the log."""
        every = math.ceil(self.recipe.iterations / self.config.evaluations / self.config.log_every)
        return self.iteration % (every * self.config.log_every) == 0 or self.is_finished()

    def is_logged(self) -> bool:
        """Whether the log has an entry after this iteration."""
        return self.iteration % self.config.log_every == 0 or self.is_finished()

    def is_finished(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.recipe.iterations


def train(config: Config, setup: Setup, accelerator: Accelerator) -> Outcome | None:
    """Train a run to its end, from its last checkpoint if it has one.

    Args:
        config: What to train.
        setup: How.
        accelerator: Where, from :func:`make_accelerator`.

    Returns:
        The outcome, in every process; None if ``max_seconds`` were over before.

    Raises:
        ExperimentError: If it cannot go on; the message says what to do.
    """
    main = accelerator.is_main_process
    if main:
        setup.folder.mkdir(parents=True, exist_ok=True)
    state = checkpoint.latest(setup.folder, accelerator.print) if main else None
    if accelerator.num_processes > 1:
        # Other hosts need not see this one's files.
        state = broadcast_object_list([state])[0]
    run = Run(config, setup, accelerator, state)
    if state is None and main:
        run.snapshot()
        checkpoint.save(setup.folder, run.state())
    log = Log(setup.folder, run.history, setup.tensorboard) if main else None
    try:
        finished = _loop(run, log)
    finally:
        if log is not None:
            log.close()
    if not finished:
        return None
    return Outcome(run.error(), run.parameters, run.seconds, run.history)


def _loop(run: Run, log: Log | None) -> bool:
    """Train until the end, True, or until the time is over, False."""
    config, setup, accelerator = run.config, run.setup, run.accelerator
    frames = snapshot_iterations(run.recipe.iterations)
    opened = saved = started = time.perf_counter()
    # Losses are summed on the device and read at each entry of the log, lest every step wait for the GPU.
    total, since = torch.zeros((), device=accelerator.device), 0
    batches = run.task.batches(config.seed, run.iteration, run.recipe.batch_size, run.shard)
    with tqdm(
        total=run.recipe.iterations,
        initial=run.iteration,
        desc=f"{config.model} {config.transform}" if config.transform != "none" else config.model,
        unit="batch",
        disable=None if log is not None else True,
        dynamic_ncols=True,
    ) as bar:
        while not run.is_finished():
            total, since = total + run.step(next(batches)), since + 1
            bar.update()
            if not run.is_logged() and run.iteration not in frames:
                continue
            if accelerator.device.type != "cpu":
                torch.accelerator.synchronize()
            run.seconds += time.perf_counter() - started
            if log is not None and run.iteration in frames:
                run.snapshot()
            if run.is_logged():
                over = setup.max_seconds is not None and time.perf_counter() - opened >= setup.max_seconds
                # The processes must agree to stop, and their clocks don't.
                votes = summed(accelerator, torch.stack((total / since, total.new_tensor(over)))).tolist()
                over = votes[1] > 0
                _record(run, log, votes[0] / accelerator.num_processes)
                if log is not None:
                    bar.set_postfix(_postfix(run.history))
                    due = time.perf_counter() - saved >= setup.checkpoint_seconds
                    if due or over or run.is_finished():
                        checkpoint.save(setup.folder, run.state())
                        saved = time.perf_counter()
                if over and not run.is_finished():
                    return False
                total, since = torch.zeros_like(total), 0
            started = time.perf_counter()
    return True


def _record(run: Run, log: Log | None, loss: float) -> None:
    if not math.isfinite(loss):
        raise ExperimentError(
            f"the loss became {loss} at iteration {run.iteration}: try --clip-grad, a lower --lr or --localization-lr"
        )
    error = run.error(CURVE_SAMPLES) if run.is_evaluated() else None
    history = run.history
    history.iteration.append(run.iteration)
    history.loss.append(loss)
    history.lr.append(run.optimizer.param_groups[0]["lr"])
    history.seconds.append(round(run.seconds, 3))
    history.error.append(error)
    if log is not None:
        log.write(history)


def _postfix(history: History) -> dict[str, str]:
    errors = [error for error in history.error if error is not None]
    error = {"error": f"{errors[-1]:.1f} %"} if errors else {}
    return {"loss": f"{history.loss[-1]:.3f}", **error}


def summed(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum of each process's values, in every process."""
    total = accelerator.reduce(values, "sum")
    assert isinstance(total, Tensor)
    return total


def snapshot_iterations(iterations: int) -> frozenset[int]:
    """When to look at the transformers: often at first, when they move most."""
    return frozenset(math.ceil(iterations * (k / SNAPSHOTS) ** 2) for k in range(1, SNAPSHOTS + 1))


def load_run(path: Path, setup: Setup, accelerator: Accelerator) -> Run:
    """A run as its checkpoint has it, for pictures and measurements.

    Args:
        path: A checkpoint, or the folder of a run.
        setup: Where the data are.
        accelerator: Where to compute.

    Raises:
        ExperimentError: If there is no such checkpoint, or its experiment is unknown.
    """
    state = checkpoint.latest(path, accelerator.print) if path.is_dir() else checkpoint.load(path)
    if state is None:
        raise checkpoint.CheckpointError(f"{path} holds no checkpoint: give a run's folder, or its {checkpoint.NAME}")
    try:
        config = Config.from_dict(state["config"])
    except ValueError as error:
        raise checkpoint.CheckpointError(f"{path}: {error}") from error
    return Run(config, setup, accelerator, state)
