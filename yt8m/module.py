"""Training, evaluation, and inference of a network on batches of videos: dequantize → model → loss, metrics."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from yt8m.build import INSTANCE, build, class_name
from yt8m.checkpoint import WEIGHTS, load
from yt8m.datamodules.batch import Batch
from yt8m.datamodules.quantization import RANGE
from yt8m.errors import ConfigError, DivergedError
from yt8m.inputs import Inputs, choose_transform, convert, make_segment_mark, make_transform, prepare
from yt8m.labels import ClassInfo, Genres, dense_labels
from yt8m.metric_table import PREFIX
from yt8m.metrics import MeanLoss, make_metrics
from yt8m.objective import Objective
from yt8m.optimization import check_paths, clip_, make_optimizer, make_scheduler, parameter_groups
from yt8m.schema import Classifier, check
from yt8m.sharding import is_sharded, shard, share_buffers
from yt8m.transforms import Transform

EVALUATED = (PREFIX["validate"], PREFIX["test"])


class VideoClassifier(pl.LightningModule):
    """A multi-label classifier of videos.

    Arguments from a configuration are plain containers, so checkpoints hold nothing but tensors and plain values, and
    `VideoClassifier.load_from_checkpoint(path)` reads them with `weights_only=True`. In Python, `model`, `loss`,
    `optimizer` and `scheduler` may be objects instead. A checkpoint then keeps the names of their classes only, and
    `load_from_checkpoint` needs the same objects again.

    Args:
        model: `_target_` of `yt8m.models` and the network's keyword arguments; or a Module with
            `forward(video [B, D], frames [B, T, D], num_frames [B]) -> logits [B, C]`, which gets both inputs unless
            its attributes `needs_video` and `needs_frames` say otherwise. One that trains on more than its logits has
            `training_loss(inputs, labels [B, C], mask [B, C] or None, loss) -> scalar`, with inputs as `forward` takes.
        feature_sizes: features side by side in a batch, in order, and their sizes.
        num_classes: C, the classes of the target.
        loss: `_target_` of `yt8m.losses` and its arguments; or a function
            `(logits [B, C], labels [B, C], mask [B, C] or None) -> scalar`.
        optimizer: `_target_` of `torch.optim` and its arguments; or a function from the parameters to an optimizer,
            such as `functools.partial(torch.optim.Adam, lr=1e-3)`.
        scheduler: `_target_` of `yt8m.schedulers` and its arguments; or a function with the keywords `optimizer`,
            `examples_per_step` and `total_steps`; None keeps the learning rate constant.
        weight_decay: paths in the network and the weight decay below each, in place of the optimizer's own:
            `{"classifier": 1e-8}`; see `yt8m.optimization.parameter_groups`.
        objective: arguments of `yt8m.objective.Objective`, such as `{"mixup": 0.4}`; None leaves its defaults.
        gradient_clip: `{"norm": float, "per": "variable" | "global"}`, the largest L2 norm of each
            variable's gradient (as in the reference trainer) or of all together; None clips nothing.
        transform: `_target_` of `yt8m.transforms` and its arguments, or a `Transform`: what happens to each frame's (at
            video level each video's) vector; None leaves the dequantized values.
        normalize: `l2` is the earlier name of the transform `yt8m.transforms.L2`.
        quantization: (min, max) of features stored as uint8, as the dataset has it.
        level: `frame`, `segment` or `video`: what batches hold.
        segment_classes: at level `segment`, the classes that count in MAP@100,000; None for all.
        context: as in the dataset; with any, the frames of a segment are marked for the network (`yt8m.inputs`).
        max_frames, pad_to: T is `max_frames` where `pad_to` is `max`, else the batch's longest video.
        target: what the outputs are, `label` or `vertical` (genres, see `yt8m.genres`).
        vocabulary: name and verticals of every label of the data, where they are known.
        config: the run's whole resolved configuration, carried for eval and predict.
        trusted_packages: packages outside of this project that may define what a `_target_` names. Never saved.

    Raises:
        ConfigError: an argument has the wrong type or range, or the network does not fit the data.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any] | torch.nn.Module,
        feature_sizes: dict[str, int],
        num_classes: int,
        loss: dict[str, Any] | Callable[..., Tensor],
        optimizer: dict[str, Any] | Callable[..., torch.optim.Optimizer],
        scheduler: dict[str, Any] | Callable[..., Any] | None = None,
        weight_decay: dict[str, float] | None = None,
        objective: dict[str, Any] | None = None,
        gradient_clip: dict[str, Any] | None = None,
        transform: dict[str, Any] | Transform | None = None,
        normalize: str = "none",
        quantization: Sequence[float] = RANGE,
        level: str = "frame",
        segment_classes: list[int] | None = None,
        context: int | str = 0,
        max_frames: int = 300,
        pad_to: str = "longest",
        target: str = "label",
        vocabulary: list[list[str]] | None = None,
        config: dict[str, Any] | None = None,
        trusted_packages: Sequence[str] = (),
    ):
        super().__init__()
        values = locals()
        check(Classifier, {name: values[name] for name in Classifier.model_fields})
        if target == "label" and vocabulary is not None and len(vocabulary) != num_classes:
            raise ConfigError(
                f"vocabulary: expected {num_classes} rows, one per class, found {len(vocabulary)}"
            )
        transform, normalize = choose_transform(transform, normalize), "none"
        parts = {"model": model, "transform": transform, "loss": loss}
        parts |= {"optimizer": optimizer, "scheduler": scheduler}
        objects = {name: part for name, part in parts.items() if not isinstance(part, Mapping | None)}
        quantization = [float(limit) for limit in quantization]  # a list, as from a configuration
        self.save_hyperparameters(logger=False, ignore=[*objects, "trusted_packages"])
        self.hparams.update({name: {INSTANCE: class_name(part)} for name, part in objects.items()})
        self._optimizer, self._scheduler, self._trusted = optimizer, scheduler, tuple(trusted_packages)
        sizes = {"feature_sizes": dict(feature_sizes), "num_classes": num_classes}
        network = self._build("model", model, **sizes) if isinstance(model, Mapping) else model
        if not isinstance(network, torch.nn.Module):
            raise ConfigError(f"model: expected a section or a torch.nn.Module, found {model!r}")
        self.model: torch.nn.Module = network
        check_paths(weight_decay or {}, self.parameters_by_path())
        if self.needs_frames and level == "video":
            raise ConfigError(
                f"dataset.level: {type(self.model).__name__} needs frames, expected level frame or segment, found "
                "video; choose a frame-level dataset, or a model that reads video vectors, such as model=nn"
            )
        self.segment_mark = make_segment_mark(context, self.model, feature_sizes, objective or {})
        self.transform = make_transform(transform, feature_sizes, self._trusted)
        self.genres = Genres([verticals for _, *verticals in vocabulary or ()])
        function = self._build("loss", loss) if isinstance(loss, Mapping) else loss
        if not callable(function):
            raise ConfigError(f"loss: expected a section or a function, found {loss!r}")
        self.loss: Callable[..., Tensor] = function
        self.objective = Objective(feature_sizes, level, **(objective or {}))
        self.metrics = torch.nn.ModuleDict(
            {p: make_metrics(f"{p}/", level, segment_classes) for p in EVALUATED}
        )
        self.mean_loss = torch.nn.ModuleDict({prefix: MeanLoss() for prefix in EVALUATED})
        self.train_loss = MeanLoss()
        self._saved_train_loss: dict[str, Any] | None = None

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # files only
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str | None = None,
        *,
        strict: bool = True,
        weights_only: bool = True,
        trusted_packages: Sequence[str] = (),
        **overrides: Any,
    ) -> Self:
        """The classifier in a checkpoint. Nothing in the file is executed.

        Args:
            checkpoint_path: a file that training wrote.
            map_location: device to move the classifier to; None leaves it on the CPU.
            strict: whether the file must hold the tensors of the network exactly.
            weights_only: always true; the argument is there because Lightning has it.
            trusted_packages: packages outside of this project that may define what the checkpoint names.
            overrides: constructor arguments that replace the checkpoint's, such as `model` for one that was saved with
                an object.

        Raises:
            ConfigError: the file is no such checkpoint, is damaged, or needs an object or a package's code.
        """
        if not weights_only:
            raise ConfigError("weights_only: expected true, found false; no code in a checkpoint is run")
        classifier = load(cls, Path(checkpoint_path), overrides, strict, trusted_packages)
        return classifier if map_location is None else classifier.to(map_location)

    @property
    def needs_video(self) -> bool:
        """Whether the network reads the video vector."""
        return getattr(self.model, "needs_video", True)

    @property
    def needs_frames(self) -> bool:
        """Whether the network reads frames."""
        return getattr(self.model, "needs_frames", True)

    def _build(self, key: str, config: Mapping[str, Any], **given: Any) -> Any:
        return build(config, key, trusted=self._trusted, **given)

    def classes(self) -> list[ClassInfo]:
        """Names and verticals of the C outputs."""
        if self.hparams.target == "vertical":
            return [ClassInfo(index, name, (name,)) for index, name in enumerate(self.genres.names)]
        if self.hparams.vocabulary is None:
            return [ClassInfo.unnamed(index) for index in range(self.hparams.num_classes)]
        return [
            ClassInfo(index, name, tuple(verticals))
            for index, (name, *verticals) in enumerate(self.hparams.vocabulary)
        ]

    def genre_scores(self, scores: Tensor, top: Tensor | None = None) -> Tensor:
        """Probabilities of the genres `[B, G]` from those of the classes `[B, C]`; G = 0 where none is known.

        `top`: see `yt8m.labels.Genres.of_scores`.
        """
        return scores if self.hparams.target == "vertical" else self.genres.of_scores(scores, top)

    def genre_labels(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Genres of the batch's labels, and of its rated labels (None: all are rated): bool `[B, G]`."""
        rated = None if batch.label_mask is None else self.genres.of_labels(batch.label_mask, len(batch))
        return self.genres.of_labels(cast(Tensor, batch.label_index), len(batch)), rated

    def forward(
        self, video: Tensor | None, frames: Tensor | None = None, num_frames: Tensor | None = None
    ) -> Tensor:
        """Logits `[B, C]` of `inputs`."""
        return self.model(video, frames, num_frames)

    def inputs(self, batch: Batch, *, video: bool | None = None, frames: bool | None = None) -> Inputs:
        """What the network reads of a batch, on the batch's device; see `yt8m.inputs.convert`.

        Args:
            batch: on the classifier's device.
            video, frames: whether to compute the video vectors and the padded frames; by default, if the network
                needs them.
        """
        length = self.hparams.max_frames if self.hparams.pad_to == "max" else batch.longest
        return convert(
            batch,
            video=self.needs_video if video is None else video,
            frames=self.needs_frames if frames is None else frames,
            level=self.hparams.level,
            quantization=self.hparams.quantization,
            length=length,
            transform=self.transform,
            mark=self.segment_mark,
        )

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the smallest batch, to trace the network with."""
        video = torch.zeros(1, sum(self.hparams.feature_sizes.values()), device=self.device)
        if not self.needs_frames:
            return (video,)
        return video, video[:, None].expand(-1, 2, -1), torch.full((1,), 2, device=self.device)

    def labels(self, batch: Batch) -> Tensor:
        """The batch's labels, or their genres where these are the target: bool `[B, C]`, on its device."""
        return self._dense(batch, batch.label_index)

    def mask(self, batch: Batch) -> Tensor | None:
        """Which of the batch's labels were rated, bool `[B, C]`, on its device; None where all were."""
        return None if batch.label_mask is None else self._dense(batch, batch.label_mask)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        # TensorBoard draws the graph from an example that is no batch, outside a trainer.
        if not isinstance(batch, Batch):
            return batch
        return self.objective.sample(batch) if self.trainer.training else batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not len(batch):
            return self._empty_step()
        loss = self.objective(self, batch)
        self.train_loss.update(loss, len(batch))
        # Not in Lightning's progress bar, which would read it from the GPU, and so force a sync, at every step.
        self.log("train/loss_step", loss.detach(), batch_size=len(batch))
        return loss

    def on_fit_start(self) -> None:
        prepare(self.transform, self.trainer.datamodule, self.hparams.quantization)

    def on_train_epoch_end(self) -> None:
        # All ranks meet here once per epoch, however many of a rank's batches were empty.
        self.log("train/loss", self.train_loss.compute())
        self.train_loss.reset()

    def on_validation_start(self) -> None:
        share_buffers(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities, float32 `[B, C]`."""
        return self(*self.inputs(batch)).float().sigmoid()

    def configure_model(self) -> None:
        """Shard the network's weights over the devices if the strategy does so (trainer=fsdp)."""
        if self.device_mesh is not None:
            shard(self.model, self.device_mesh["data_parallel"])

    def parameters_by_path(self) -> dict[str, Tensor]:
        """What is trained, by its path in the network, such as `classifier.weight`."""
        return {name.removeprefix(WEIGHTS): parameter for name, parameter in self.named_parameters()}

    def parameter_groups(self) -> list[dict[str, Any]] | None:
        """What is trained, in the optimizer's groups; None for an optimizer that was passed as an object."""
        if not isinstance(self._optimizer, Mapping):
            return None
        decay = self.hparams.weight_decay
        return parameter_groups(self._optimizer, self.parameters_by_path(), decay, self._trusted)

    def configure_optimizers(self) -> Any:
        decay = self.hparams.weight_decay
        # Fused kernels unscale fp16's gradients themselves, after they were clipped.
        precision = self._trainer.precision if self._trainer else "32-true"
        fused = precision != "16-mixed" and not is_sharded(self.model)
        optimizer = make_optimizer(
            self._optimizer, self.parameters_by_path(), decay, self._trusted, fused=fused
        )
        if not self._scheduler:
            return optimizer
        scheduler = make_scheduler(
            self._scheduler, optimizer, self.trainer, self.hparams.config, self._trusted
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip = self.hparams.gradient_clip
        if gradient_clip_val is not None or not clip:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            clip_(self, optimizer, **clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the running `train/loss`, so that a run resumed mid-epoch reports it for the whole epoch."""
        with self.train_loss.sync_context():
            checkpoint["train_loss"] = {
                "total": float(self.train_loss.total),
                "videos": int(self.train_loss.videos),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._saved_train_loss = checkpoint.get("train_loss")

    def on_train_epoch_start(self) -> None:
        self.train_loss.reset()

    def on_train_start(self) -> None:
        saved, self._saved_train_loss = self._saved_train_loss, None
        # The sum of all ranks: one of them resumes it.
        if saved and saved["videos"] and self.global_rank == 0:
            self.train_loss.update(
                torch.tensor(saved["total"] / saved["videos"], dtype=torch.float64, device=self.device),
                saved["videos"],
            )

    def _empty_step(self) -> Tensor:
        """A step that changes no gradient, for a batch whose records were all damaged and skipped."""
        if is_sharded(self.model):
            return self._forward_of_zeros().sum() * 0.0
        return torch.stack([p.sum() for p in self.parameters()]).sum() * 0.0

    def _forward_of_zeros(self) -> Tensor:
        """Logits of a made-up batch: the other ranks' forward passes wait until this rank shares its weights, too."""
        return self(*(torch.cat([tensor, tensor]) for tensor in self.example()))

    def _evaluate(self, batch: Batch, prefix: str) -> Tensor | None:
        """Update the metrics; the probabilities, float32 `[B, C]`, for callbacks."""
        if not len(batch):
            if is_sharded(self.model):
                self._forward_of_zeros()
            return None
        logits = self(*self.inputs(batch))
        labels, mask = self.labels(batch), self.mask(batch)
        self.mean_loss[prefix].update(self.loss(logits, labels, mask), len(batch))
        scores = logits.float().sigmoid()
        self.metrics[prefix].update(scores, labels, mask)
        return scores

    def _log_metrics(self, prefix: str) -> None:
        # Computed here, not by passing the objects to `log_dict`, which would copy a collection's states each step.
        loss, metrics = self.mean_loss[prefix], self.metrics[prefix]
        mean_loss = loss.compute()
        if mean_loss.isinf():  # on all ranks
            raise DivergedError(
                f"{prefix}/loss is NaN or infinite, so the weights have diverged; use an earlier checkpoint, and lower "
                "optimizer.lr"
            )
        self.log_dict({f"{prefix}/loss": mean_loss, **metrics.compute()})
        loss.reset()
        metrics.reset()

    def _dense(self, batch: Batch, index: Tensor | None) -> Tensor:
        if index is None:
            raise ConfigError("dataset: expected labels, found a partition without any; predict needs none")
        if self.hparams.target == "vertical":
            return self.genres.of_labels(index, len(batch))
        return dense_labels(index, len(batch), self.hparams.num_classes)
