"""The training loop: `fit` is the plan, `Loop.train_epoch` the work, `Loop.state` what resuming needs.

Nothing waits for the device within a step: losses stay there as tensors, and every `CHECK_EVERY` steps (or 5 seconds)
one copy of the newest says how it goes and whether all are finite. `Loop.forward_backward` and `Loop.update` have
static shapes and take the learning rate from a tensor: a CUDA graph can hold them (`kpdata.train.fast`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kpdata.errors import TrainError
from kpdata.train import distributed, fast, narrow, optim
from kpdata.train.batch import Batch
from kpdata.train.checkpoint import Checkpoint, require_same, save_checkpoint
from kpdata.train.hrnet import count_batches
from kpdata.train.ledger import FOLDER, Recorder
from kpdata.train.losses import heatmap_loss, weights_by_name
from kpdata.train.prepare import prepare
from kpdata.train.run import Line, Reason, Result, Run
from kpdata.train.watch import Interruption, Replaced, Window, enough_memory, undisturbed, worker_died

CHECK_EVERY = 50  # steps from one look at the losses to the next
CHECK_SECONDS = 5.0  # the same on slow machines
SAVE_SECONDS = 60.0  # an epoch without an evaluation is saved if the last checkpoint is older
BEST, LAST = "best.pt", "last.pt"


def fit(run: Run, resume: Checkpoint | None = None) -> Result:
    """Trains until the epochs are over, patience is, the step limit is reached, or somebody presses Ctrl-C.

    Writes `last.pt`, from which `resume` goes on bit for bit as if nothing had happened (same threads, CPU), also in
    the middle of an epoch, and `best.pt`, for use alone, into `config.out`. Ctrl-C and SIGTERM are taken after the
    current step. The step limit cuts a training off; its schedule stays that of all epochs. Raises TrainError where a
    loss is not finite (it names the images), memory does not suffice (it names a batch size), a picture cannot be read
    or a worker of the loader died (`last.pt` goes on), a checkpoint is of another training, or an option does not fit.
    """
    with enough_memory(run.config), Interruption() as stop:
        loop = Loop(run)
        try:
            if resume is not None:
                loop.restore(resume)
            return loop.run_all(stop)
        finally:
            loop.graph = None  # now, with all its memory: it holds the loop and the loop holds it


class Loop:
    """A training on its way: the network and its optimiser, and where it stands."""

    def __init__(self, run: Run) -> None:
        config, self.run, self.device = run.config, run, run.device
        fast.check(config, run.device, run.ranks.world)
        self.on_cuda = run.device.type == "cuda"
        torch.backends.cudnn.benchmark |= self.on_cuda  # shapes do not change: the fastest convolutions are tried once
        layout = torch.channels_last if self.on_cuda else torch.contiguous_format
        self.net = run.net.to(run.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.prepare, self.loss = prepare, heatmap_loss
        if config.compile:
            fast.compile_parts(self.net)
            if self.on_cuda:  # on a CPU the loader has done nearly all of it
                self.prepare, self.loss = fast.compiled(prepare), fast.compiled(heatmap_loss)
        self.wrapped = distributed.wrap(self.net, run.ranks, run.device)
        self.optimizer = optim.make_optimizer(self.net, config, run.device)
        self.ema = optim.Ema(self.net, config.ema) if config.ema is not None else None
        self.lr, self.rule = optim.learning_rate(config, run.ranks.world)
        self.keypoint_weights = weights_by_name(config.keypoint_weights, run.spec.skeleton, run.device)
        self.policies, self.source_weights = (
            None if tensor is None else tensor.to(run.device) for tensor in (run.policies, run.source_weights)
        )
        self.recorder = self._recorder()
        self.bf16 = optim.precision(config, run.device) == "bf16"
        # Under DistributedDataParallel gradients must come one by one, to be averaged while others are computed.
        self.short = fast.in_bf16(self.net) if self.bf16 and run.ranks.world == 1 else None
        self.graph: fast.GraphedStep | None = None  # `learn`, recorded with the first batch
        self.narrow = narrow.replace(self.net) if config.graph and self.bf16 else 0  # launched singly they do not pay
        if config.graph:
            fast.branches_on_streams(self.net)
            also = [] if self.recorder is None else [self.recorder.losses]
            self.graph = fast.GraphedStep(lambda batch: self.learn([batch])[0], self.net, self.optimizer, also=also)
        self.per_epoch = run.loader.per_epoch
        self.steps = config.epochs * -(-self.per_epoch // config.accumulate)

        self.epoch, self.batches, self.step = 0, 0, 0  # batches: of this epoch, trained on
        self.counted = 0  # batches of all epochs that the batch norms know of
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_epoch: int | None = None
        self.worse = 0  # evaluations since the best one
        self.total = torch.zeros((), device=run.device)  # of this epoch's losses
        self.mean_loss = math.nan  # of the last whole epoch
        self.lr_used = 0.0  # of the last step
        self.rng: dict[str, Tensor] | None = None
        self.window = Window()
        self.replaced = Replaced()
        self.seconds, self.waited, self.images = 0.0, 0.0, 0
        self.saved_at = time.perf_counter()

    # --------------------------------------------------------------------------------------------------------- training

    def run_all(self, stop: Interruption) -> Result:
        """From where it stands to an end."""
        config = self.run.config
        self.say("start", **self.facts)
        if hint := fast.hint(config, self.device, self.run.ranks.world):
            self.say("note", text=hint)
        reason: Reason = "finished"
        while reason == "finished" and self.epoch < config.epochs:
            try:
                self.train_epoch(stop)
                reason = "interrupted" if stop.asked else self.finish_epoch(stop)
            except RuntimeError as problem:
                if died := worker_died(problem):
                    raise self._resumable(died) from problem
                raise
        if reason in ("interrupted", "step limit"):
            self.save_last()
        return self.result(reason)

    def train_epoch(self, stop: Interruption) -> None:
        """The rest of the current epoch, or less where `stop` or the step limit say so."""
        if self.batches >= self.per_epoch:
            return
        config = self.run.config
        self.run.loader.position = (self.epoch, self.batches * config.batch * self.run.ranks.world)
        self.wrapped.train()
        batches = iter(self.run.loader)
        self._restore_rng()
        self.window = Window()
        while self.batches < self.per_epoch and not self.at_limit:
            group = self._next_group(batches)
            with undisturbed():
                self._step(group)
                due = self._due(stop)
                if due:
                    self.report()
            if due:
                stop.asked = distributed.any_of(stop.asked, self.run.ranks, self.device)
                if stop.asked:
                    return

    def _step(self, group: list[Batch]) -> None:
        """A step and what is counted of it: all or nothing."""
        self.lr_used = self.lr_now
        optim.set_lr(self.optimizer, self.lr_used)
        losses = self.learn(group) if self.graph is None else [self.graph(group[0])]
        if self.ema is not None:
            self.ema.update(self.net)
        for batch, loss in zip(group, losses, strict=True):
            self.window.add(loss, batch, self.step)
            self.total += loss
        self.batches += len(group)
        self.step += 1

    def learn(self, group: list[Batch]) -> list[Tensor]:
        """A step: gradients away, forward and backward of each batch, a step of the optimiser; the losses."""
        self.optimizer.zero_grad(set_to_none=True)
        share, last = 1 / len(group), group[-1]
        losses = [self.forward_backward(batch.to(self.device), share, last=batch is last) for batch in group]
        self.update()
        return losses

    def forward_backward(self, batch: Batch, share: float, last: bool) -> Tensor:
        """Adds the gradients of a batch on the device, times its share of the step; gives its loss, still there.

        last: of the step's batches: the processes meet then.
        """
        images, targets, weights = self.prepare(batch, self.run.spec, self.policies)
        with distributed.apart(self.wrapped, not last):
            maps = self._maps(images)
            loss, errors = self.loss(
                maps, targets, weights, kind=self.run.config.loss, hard=self.run.config.hard, known=batch.known,
                keypoint_weights=self.keypoint_weights, source=None if self.source_weights is None else batch.source,
                source_weights=self.source_weights,
            )  # fmt: skip
            (loss * share).backward()  # type: ignore[no-untyped-call]
        if self.recorder is not None:
            self.recorder.record(batch.index, errors)
        return loss.detach()

    def _maps(self, images: Tensor) -> Tensor:
        if self.short is not None:
            return self.short(images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            maps: Tensor = self.wrapped(images)
        return maps

    def update(self) -> None:
        """A step of the optimiser with the gradients that are there."""
        optim.clip(self.net, self.run.config.clip)
        self.optimizer.step()

    @property
    def lr_now(self) -> float:
        """Learning rate of the coming step."""
        c = self.run.config
        return optim.lr_at(
            self.step, lr=self.lr, steps=self.steps, schedule=c.schedule, milestones=c.milestones, warmup=c.warmup
        )

    @property
    def people_an_epoch(self) -> int:
        return self.per_epoch * self.run.config.batch * self.run.ranks.world

    @property
    def at_limit(self) -> bool:
        limit = self.run.config.max_steps
        return limit is not None and self.step >= limit

    def _next_group(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of a step. A picture that cannot be read, where none may take its place, and a worker that died
        end the training, but lose nothing of it."""
        began = time.perf_counter()
        count = min(self.run.config.accumulate, self.per_epoch - self.batches)
        try:
            group = list(itertools.islice(batches, count))
        except TrainError as problem:
            raise self._resumable(problem)  # noqa: B904  # itself
        if len(group) < count:
            raise TrainError(f"the loader ended early: fewer than {self.per_epoch} batches in epoch {self.epoch}")
        self.window.waited += time.perf_counter() - began
        return group

    def _resumable(self, problem: TrainError) -> TrainError:
        """What ends the training between two steps, with the checkpoint from which it goes on named."""
        if self.step and self.run.ranks.world == 1:
            with undisturbed():
                self.report(expect=False)
                if self.replaced.too_many(self.people_an_epoch):
                    self.replaced.epoch = 0  # who goes on has mended that
                self.save_last()
            again = f"--resume {self.run.config.out / LAST} goes on once that is mended"
            problem.hint = f"{problem.hint}; {again}" if problem.hint else again
        return problem

    # --------------------------------------------------------------------------------------------------- looking at it

    def _due(self, stop: Interruption) -> bool:
        """Time for a look at the losses. Several processes must agree when: by steps alone."""
        ended = self.batches >= self.per_epoch or self.at_limit
        if self.run.ranks.world > 1:
            return ended or self.step % CHECK_EVERY == 0
        return ended or stop.asked or self.window.steps(self.step) >= CHECK_EVERY or self.window.age() > CHECK_SECONDS

    def report(self, *, expect: bool = True) -> None:
        """Fetches the losses since the last look; says how it goes. TrainError where one is not finite, and, unless
        `expect` is False, where too many pictures could not be read."""
        window, self.window = self.window, Window()
        losses = window.fetch()
        if losses is None:
            return
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            raise self._not_finite(window, int(bad[0]), float(losses[bad[0]]))
        seconds, images = window.age(), window.images * self.run.ranks.world
        self.seconds += seconds
        self.waited += window.waited
        self.images += images
        self.say(
            "train", loss=float(losses.mean()), batch=self.batches, batches=self.per_epoch,
            images_per_second=images / seconds, waits=window.waited / seconds, steps=self.steps,
            lr=self.lr_used,
        )  # fmt: skip
        if self.run.config.missing_images == "skip":
            self._count_replaced(window.replaced, expect)

    def _count_replaced(self, problems: list[str], expect: bool) -> None:
        if text := self.replaced.add(distributed.gather_texts(problems, self.run.ranks)):
            self.say("note", text=text)
        if expect and (ended := self.replaced.too_many(self.people_an_epoch)):
            raise self._resumable(ended)

    def _not_finite(self, window: Window, place: int, loss: float) -> TrainError:
        ids = window.image_ids[place].tolist()
        more = f" and {len(ids) - 20} more" if len(ids) > 20 else ""
        where = f"epoch {self.epoch}, step {window.at[place]}"
        where += f", process {self.run.ranks.rank}" if self.run.ranks.world > 1 else ""
        saved = self.run.config.out / LAST
        hint = f"a lower --lr (now {self.lr_used:.2g}) or --clip 1 helps where the labels are fine"
        hint += f"; {saved} is from before" if saved.is_file() else ""
        return TrainError(f"{where}: the loss is {loss}; images {', '.join(map(str, ids[:20]))}{more}", hint=hint)

    def say(self, event: str, **facts: Any) -> None:
        """A line of the log, on process 0."""
        if self.run.ranks.first:
            self.run.log({"event": event, "epoch": self.epoch, "step": self.step, **facts})

    @property
    def facts(self) -> Line:
        """What the first line of the log says."""
        config = self.run.config
        return {
            "rule": self.rule, "lr": self.lr, "steps": self.steps, "epochs": config.epochs, "batches": self.per_epoch,
            "optimizer": config.optimizer, "schedule": config.schedule, "device": str(self.device),
            "precision": optim.precision(config, self.device), "processes": self.run.ranks.world,
            "narrow": self.narrow, "resumed": self.step > 0 or self.batches > 0,
        }  # fmt: skip

    # -------------------------------------------------------------------------------------------------- end of an epoch

    def finish_epoch(self, stop: Interruption) -> Reason:
        """Evaluation, ledger and checkpoints after an epoch, or at the step limit; why to stop, if to stop."""
        config, whole = self.run.config, self.batches >= self.per_epoch
        if whole:
            self.mean_loss = float(distributed.mean_of(self.total, self.run.ranks)) / self.per_epoch
        over = whole and self.epoch + 1 == config.epochs
        evaluated = self.run.validate is not None and (
            over or self.at_limit or (whole and (self.epoch + 1) % config.eval_every == 0)
        )
        try:
            better = self.evaluate(stop) if evaluated else False
        except KeyboardInterrupt:  # resuming does it again
            return "interrupted"
        except Exception:
            if self.run.ranks.world == 1:  # the epoch is not lost with its evaluation
                self.save_last()
            raise
        with undisturbed():
            if whole:
                self._write_ledger()
                self.epoch, self.batches, self.replaced.epoch = self.epoch + 1, 0, 0
                self.total.zero_()
            if better:
                self.save(config.out / BEST, resumable=False)
            aged = time.perf_counter() - self.saved_at > SAVE_SECONDS
            if evaluated or over or aged or self.run.ranks.world > 1:
                self.save_last()
        if self.at_limit and not over:
            return "step limit"
        tired = config.patience is not None and self.worse >= config.patience
        return "early stop" if tired and not over else "finished"

    def evaluate(self, stop: Interruption) -> bool:
        """Measures the network; True where it is the best so far."""
        assert self.run.validate is not None
        net, began = self.evaluated, time.perf_counter()
        distributed.average_buffers(net, self.run.ranks)
        net.eval()
        try:
            eager = fast.uncompiled() if self.run.config.compile else nullcontext()  # other shapes would compile anew
            with stop.at_once(self.run.ranks.world == 1), torch.no_grad(), eager:
                metrics = distributed.from_first(dict(self.run.validate(net)), self.run.ranks)
                if self.run.picture is not None and self.run.ranks.first:
                    self.run.picture(net, self.epoch)
        finally:
            self.net.train()
        better = _rank(metrics) > _rank(self.best)
        self.metrics = metrics
        self.worse = 0 if better else self.worse + 1
        if better:
            self.best, self.best_epoch = metrics, self.epoch
        seconds = time.perf_counter() - began
        self.say("evaluation", **metrics, better=better, train_loss=self.mean_loss, seconds=seconds)
        return better

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured and published: the moving average's where there is one."""
        return self.net if self.ema is None else self.ema.net

    def _recorder(self) -> Recorder | None:
        run = self.run
        if not run.config.ledger:
            return None
        if run.annotation_ids is None or run.image_ids is None:
            raise TrainError("a ledger needs the ids of the people that are trained on")
        folder = run.config.out / FOLDER
        return Recorder(folder, run.annotation_ids, run.image_ids, run.spec.skeleton.keypoint_names, run.device)

    def _write_ledger(self) -> None:
        if self.recorder is None:
            return
        losses = distributed.merge_losses(self.recorder.losses, self.run.ranks)
        if self.run.ranks.first:
            self.recorder.write(self.epoch, losses.cpu().numpy())
        self.recorder.clear()

    # -------------------------------------------------------------------------------------------- checkpoints, resuming

    def save_last(self) -> None:
        """Writes the checkpoint from which the training goes on."""
        for net in dict.fromkeys((self.net, self.evaluated)):
            distributed.average_buffers(net, self.run.ranks)
        self.save(self.run.config.out / LAST, resumable=True)
        self.saved_at = time.perf_counter()

    def save(self, path: Path, *, resumable: bool) -> None:
        """A checkpoint of the evaluated network, by process 0; resumable: with all that training on needs."""
        self._count()
        state = self.state() if resumable else None
        if self.run.ranks.first:
            weights, config = dict(self.evaluated.state_dict()), self.run.config.to_json()
            save_checkpoint(path, Checkpoint(self.run.spec, weights, dict(self.metrics), config, state))

    def _count(self) -> None:
        """Tells the batch norms how many batches there were, as torch's own would know."""
        done = self.epoch * self.per_epoch + self.batches
        for net in dict.fromkeys((self.net, self.evaluated)):
            count_batches(net, done - self.counted)
        self.counted = done

    def state(self) -> dict[str, Any]:
        """All that `restore` needs beside the weights."""
        ledger, cuda = None, {"cuda": torch.cuda.get_rng_state(self.device)} if self.on_cuda else {}
        if self.recorder is not None and self.batches:
            ledger = distributed.merge_losses(self.recorder.losses, self.run.ranks)
        return {
            "epoch": self.epoch, "batches": self.batches, "step": self.step, **self._shape(),
            "optimizer": self.optimizer.state_dict(), "mean_loss": self.mean_loss,
            "total": distributed.mean_of(self.total, self.run.ranks),
            "net": None if self.ema is None else dict(self.net.state_dict()),
            "ema_updates": 0 if self.ema is None else self.ema.updates,
            "best": self.best, "best_epoch": self.best_epoch, "worse": self.worse, "ledger": ledger,
            "rng": {"cpu": torch.get_rng_state(), **cuda},
            "absent": [list(rows) for rows in self.run.absent] or None,
            "replaced": {**asdict(self.replaced), "broken": list(self.replaced.broken)},
        }  # fmt: skip

    def _shape(self) -> dict[str, Any]:
        """What must not change from one run to the next: the place in an epoch would be another one."""
        config, world = self.run.config, self.run.ranks.world
        return {
            "batches_per_epoch": self.per_epoch, "processes": world, "batch": config.batch, "seed": config.seed,
            "accumulate": config.accumulate, "optimizer_name": config.optimizer, "with_ema": self.ema is not None,
        }  # fmt: skip

    def restore(self, checkpoint: Checkpoint) -> None:
        """Stands where the checkpoint was written. TrainError where it cannot be resumed, or is of another training."""
        state = checkpoint.state
        if state is None:
            hint = f"resume {LAST}; --init starts a new training from these weights"
            raise TrainError("the checkpoint holds a network for use, not a training to go on with", hint=hint)
        require_same(self.run.config.resume or LAST, checkpoint.spec, self.run.spec)
        wrong = [f"{k} {state.get(k)}, not {v}" for k, v in self._shape().items() if state.get(k) != v]
        had, have = state.get("absent"), [list(rows) for rows in self.run.absent]
        if had and have and had != have:
            wrong.append(f"pictures left out (--missing-images skip) {[*map(len, had)]}, not {[*map(len, have)]}")
        if wrong:
            hint = "give the same data and values; --init starts a new training from its weights"
            raise TrainError(f"the checkpoint is of another training: {'; '.join(wrong)}", hint=hint)
        self.net.load_state_dict(checkpoint.weights if self.ema is None else state["net"])
        if self.ema is not None:
            self.ema.net.load_state_dict(checkpoint.weights)
            self.ema.updates = state["ema_updates"]
        optim.restore(self.optimizer, state["optimizer"], self.device)
        self.epoch, self.batches, self.step = state["epoch"], state["batches"], state["step"]
        self.counted = self.epoch * self.per_epoch + self.batches
        self.metrics, self.mean_loss = dict(checkpoint.metrics), state["mean_loss"]
        self.best, self.best_epoch, self.worse = dict(state["best"]), state["best_epoch"], state["worse"]
        self.rng = state["rng"]
        if told := state.get("replaced"):  # checkpoints of before have none
            self.replaced = Replaced(told["epoch"], told["total"], dict.fromkeys(told["broken"]))
        self.total.copy_(state["total"])
        if self.recorder is not None and state["ledger"] is not None:
            self.recorder.losses.copy_(state["ledger"])

    def _restore_rng(self) -> None:
        """Random numbers go on where they were. After the loader's iterator is made, which may draw some."""
        if self.rng is not None:
            torch.set_rng_state(self.rng["cpu"])
            if self.on_cuda and "cuda" in self.rng:
                torch.cuda.set_rng_state(self.rng["cuda"], self.device)
            self.rng = None

    def result(self, reason: Reason) -> Result:
        """The last line of the log, and what `fit` gives."""
        out = self.run.config.out
        best = out / BEST
        speed = self.images / self.seconds if self.seconds else 0.0
        waits = self.waited / self.seconds if self.seconds else 0.0
        hint = f"go on with --resume {out / LAST}" if reason in ("interrupted", "step limit") else ""
        self.say(
            "end", reason=reason, images_per_second=speed, waits=waits, best_epoch=self.best_epoch, hint=hint,
            replaced=self.replaced.total,
        )  # fmt: skip
        return Result(
            reason, self.epoch, self.step, self.mean_loss, self.metrics, self.best, self.best_epoch, out / LAST,
            best if self.best_epoch is not None else None, speed, waits, self.replaced.total,
            tuple(self.replaced.broken),
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- pieces


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """What decides: the first number, then the loss: AP is 0 for a while in a training that goes well."""
    first = next(iter(metrics.values()), math.nan)
    return (-math.inf, -math.inf) if math.isnan(first) else (first, -metrics.get("loss", 0.0))
