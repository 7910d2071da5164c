"""Pruning: end the hopeless trials of an Optuna search early."""

import logging

import optuna
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from optuna.trial import TrialState
from pytorch_lightning.callbacks import Callback

from yt8m.errors import ConfigError

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports `monitor` after every validation to the trial that Hydra's Optuna sweeper runs this job for.

    If `pruner` gives the trial up, training stops. The sweeper records the trial as complete, with its best value so
    far; the trial's user attribute `pruned_after` is the number of validations.

    Args:
        storage: URL of the search's storage, shared by all its processes.
        study_name: the study in it.
        monitor: name of the logged metric.
        pruner: decides by comparing with the study's other trials after as many validations.

    Raises:
        ConfigError: when training starts, if the job is not a trial of the study.
    """

    def __init__(self, *, storage: str, study_name: str, monitor: str, pruner: optuna.pruners.BasePruner):
        self.storage, self.study_name, self.monitor, self.pruner = storage, study_name, monitor, pruner
        self._validations = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._trial = self._find_trial()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._validations += 1
        hopeless = False
        if trainer.is_global_zero:
            self._trial.report(float(trainer.callback_metrics[self.monitor]), self._validations)
            hopeless = self._trial.should_prune()
            if hopeless:
                self._trial.set_user_attr("pruned_after", self._validations)
                log.info("trial %d is pruned after validation %d", self._trial.number, self._validations)
        trainer.should_stop |= trainer.strategy.broadcast(hopeless)

    def _find_trial(self) -> optuna.Trial:
        """The latest running trial with this job's parameters; the sweeper does not pass its number to the job.

        Of two such trials, either will do: they train the same network.
        """
        overrides = set(HydraConfig.get().overrides.task)
        try:
            study = optuna.load_study(
                study_name=self.study_name,
                storage=self.storage,
                sampler=optuna.samplers.RandomSampler(),  # the sweeper's has sampled; this one is not used
                pruner=self.pruner,
            )
        except KeyError:
            trials = []
        else:
            trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in reversed(trials):
            if {f"{name}={value}" for name, value in trial.params.items()} <= overrides:
                return optuna.Trial(study, trial._trial_id)
        raise ConfigError(
            f"callbacks.pruning: expected a running trial of study {self.study_name} in {self.storage}, found none; "
            "start the search with -m, or set callbacks.pruning=null"
        )
