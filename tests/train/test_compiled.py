"""`compile=true|max`: what is compiled, how often, and that nothing else changes."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.train.test_resume import EVERY_3_STEPS, assert_equal, stop_at, weights  # noqa: F401  # a fixture
from tests.training import TINY, run_command, train
from yt8m.models.fourier_net import FourierNet
from yt8m.models.nn_stream_lstm import NNStreamLSTM
from yt8m.module import VideoClassifier
from yt8m.train import compiled
from yt8m.train.compiled import Compile, _try, _unchanged

SHORT = (
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=3",
    "+trainer.limit_val_batches=2",
    "test=false",
)
SIZES = {"feature_sizes": {"rgb": 6, "audio": 4}, "num_classes": 5, "width": 0.001}


def batch(videos, frames):
    x = torch.randn(videos, frames, 10)
    return x.mean(1), x, torch.full((videos,), frames)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_no_length_and_no_batch_size_compiles_again():
    torch._dynamo.reset()
    counter = CompileCounter()
    model = NNStreamLSTM(**SIZES)
    keys = list(model.state_dict())
    model.compile(backend=counter, dynamic=True)
    _try(model, lambda: batch(11, 7))
    graphs = counter.frame_count
    assert graphs > 0
    for frames in range(2, 12):
        model.train()(*batch(4 + frames % 3, frames)).sum().backward()
        with torch.no_grad():
            model.eval()(*batch(3, frames))
    assert counter.frame_count == graphs
    assert list(model.state_dict()) == keys


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return tmp_path_factory.mktemp("segments")


class Counter(CompileCounter):
    """Counts runs of the graphs, too, and takes a mode."""

    calls = 0

    def __call__(self, graph, inputs, **options):
        run = super().__call__(graph, inputs)

        def counted(*given):
            self.calls += 1
            return run(*given)

        return counted


@pytest.fixture
def backend(monkeypatch):
    """The whole path of compiling but for code generation, which would take a minute."""
    torch._dynamo.reset()
    counter = Counter()
    monkeypatch.setattr(compiled, "BACKEND", counter)
    return counter


def test_a_compiled_run_is_the_run_it_would_be_otherwise(tmp_path, tiny_sample, tiny_run, backend):
    metrics = train(tmp_path, *TINY, *tiny_sample, "compile=true")
    assert metrics["compiled"]
    assert metrics["compile_seconds"] > 0
    assert backend.frame_count > 0
    assert_equal(weights(tmp_path), weights(tiny_run))
    assert "compiled NNStreamLSTM in" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("model", ["mix_nextvlad", "fourier_net"])
def test_the_parts_of_a_network_with_a_loss_of_its_own_are_compiled(tmp_path, tiny_sample, backend, model):
    common = [f"model={model}", "model.width=0.03", *tiny_sample, "trainer=cpu", "trainer.max_epochs=1"]
    common += ["dataset.batch_size=16", "dataset.num_workers=0", "test=false"]
    assert train(tmp_path / "compiled", *common, "compile=max")["compiled"]
    assert backend.frame_count > 0
    assert not train(tmp_path / "plain", *common)["compiled"]
    assert_equal(weights(tmp_path / "compiled"), weights(tmp_path / "plain"))


def test_a_compiled_run_resumes_exactly_with_an_average(
    tmp_path,
    tiny_sample,
    backend,
    stop_at,  # noqa: F811
):
    common = [*TINY, *tiny_sample, *EVERY_3_STEPS, "test=false", "average=ema", "compile=max", "mixup=0.4"]
    assert train(tmp_path / "whole", *common)["compiled"]
    stop_at(6)
    with pytest.raises(SystemExit):
        train(tmp_path / "stopped", *common)
    stop_at(None)
    train(tmp_path / "stopped", *common, "ckpt_path=last")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    run_command("eval", f"ckpt_path={tmp_path}/whole/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/eval")


@pytest.mark.parametrize("pad_to", ["longest", "max"])
def test_training_validation_and_test_run_the_graphs_of_the_trial(
    tmp_path, tiny_sample, backend, monkeypatch, pad_to
):
    """All batches do, but for smaller ones where the graphs are for one shape."""
    start, forward, graphs, runs = Compile.on_train_start, VideoClassifier.forward, [], []

    def counted_start(self, trainer, module):
        start(self, trainer, module)
        graphs.append(backend.frame_count)

    def counted_forward(self, *inputs):
        before = backend.calls
        logits = forward(self, *inputs)
        runs.append((len(logits), backend.calls - before))
        return logits

    monkeypatch.setattr(Compile, "on_train_start", counted_start)
    monkeypatch.setattr(VideoClassifier, "forward", counted_forward)
    train(tmp_path, *TINY, *tiny_sample, "compile=true", f"dataset.pad_to={pad_to}")
    assert graphs == [backend.frame_count]
    assert len(runs) == 2 * (7 + 2) + 2  # of 100, 30, and 20 videos
    whole = max(calls for _, calls in runs)
    assert whole > 0
    for videos, calls in runs:
        assert (calls == whole) == (videos == 16 or pad_to == "longest")


@pytest.mark.parametrize("pad_to", ["longest", "max"])
def test_segments_in_context_run_the_graphs_of_the_trial(tmp_path, segments, backend, monkeypatch, pad_to):
    """Their frames need a gradient, for their mark, and a batch has any number of them."""
    set_stance = torch.compiler.set_stance
    strict = {"eager_on_recompile": "fail_on_recompile"}
    monkeypatch.setattr(torch.compiler, "set_stance", lambda name: set_stance(strict.get(name, name)))
    sample = ["dataset=sample_segment", f"dataset.root={segments}", f"dataset.pad_to={pad_to}", *SHORT]
    assert train(tmp_path, *TINY, *sample, "dataset.context=10", "compile=true")["compiled"]


def test_what_cannot_be_compiled_runs_as_it_is_after_one_line(tmp_path, tiny_sample, tiny_run, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("No working C++ compiler found\nin any of these places")

    monkeypatch.setattr(compiled, "BACKEND", backend)
    metrics = train(tmp_path, *TINY, *tiny_sample, "compile=true")
    assert metrics["compiled"] is False
    assert_equal(weights(tmp_path), weights(tiny_run))
    (line,) = [line for line in (tmp_path / "train.log").read_text().splitlines() if "WARNING" in line]
    assert line.endswith("compile: NNStreamLSTM runs as it is, not compiled: No working C++ compiler found")


def test_a_trial_leaves_statistics_modes_and_random_numbers_alone():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    network[1].eval()
    buffers, random = [one.clone() for one in network.buffers()], torch.get_rng_state()
    with _unchanged(network, torch.device("cpu")):
        _try(network, lambda: (torch.randn(5, 3),))
    assert all(map(torch.equal, network.buffers(), buffers))
    assert torch.get_rng_state().equal(random)
    assert [one.training for one in network] == [True, False, True]
    assert all(weight.grad is None for weight in network.parameters())


def test_what_max_cannot_compile_is_compiled_without(tmp_path, tiny_sample, tiny_run, backend, monkeypatch):
    def no_max(graph, inputs, **options):
        if "mode" in options:
            raise AssertionError
        return backend(graph, inputs)

    monkeypatch.setattr(compiled, "BACKEND", no_max)
    metrics = train(tmp_path, *TINY, *tiny_sample, "compile=max")
    assert metrics["compiled"]
    assert_equal(weights(tmp_path), weights(tiny_run))
    (line,) = [line for line in (tmp_path / "train.log").read_text().splitlines() if "WARNING" in line]
    assert (
        "compile: NNStreamLSTM is compiled without tuning, as by compile=true: AssertionError at test_compiled.py:"
        in line
    )


def test_cuda_graphs_need_one_shape_one_part_and_gradients_of_one_batch():
    one, two = (FourierNet(num_classes=5, bandwidths=parts, width=0.01) for parts in ([0.4], [0.4, 0.5]))
    graphs, none = ["max-autotune", "default"], ["max-autotune-no-cudagraphs", "default"]
    assert Compile("max").modes(one, True, 1) == graphs
    for case in ((one, True, 2), (one, False, 1), (two, True, 1)):
        assert Compile("max").modes(*case) == none
    assert Compile(True).modes(one, True, 1) == ["default"]
