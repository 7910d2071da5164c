"""Each case in a process of its own, because this one has imported everything."""

import subprocess
import sys

import pytest

from yt8m.deferred import _NEEDED


def run(code: str) -> None:
    code = f"import importlib, sys\nfrom yt8m.deferred import without_plots_and_signals\n{code}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_imports_neither_and_gets_both_when_it_asks() -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    run("""
with without_plots_and_signals():
    importlib.import_module("yt8m.train.run")
assert "torchmetrics" in sys.modules
modules = "scipy.signal", "scipy.stats", "scipy.optimize", "scipy.sparse", "matplotlib", "matplotlib.pyplot"
assert not {*modules} & {*sys.modules}
import scipy.signal
assert scipy.signal.firwin(3, 0.5).shape == (3,)
import matplotlib.pyplot
assert matplotlib.pyplot.figure().axes == []
""")


def test_a_plot_of_torchmetrics_still_works() -> None:
    pytest.importorskip("matplotlib")
    run("""
with without_plots_and_signals():
    from torchmetrics import MeanMetric
assert "matplotlib" not in sys.modules
metric = MeanMetric()
metric.update(2.0)
figure, axes = metric.plot()
assert type(figure).__module__ == "matplotlib.figure"
assert len(axes.lines) == 1
""")


@pytest.mark.parametrize(
    "wanted",
    [
        "import scipy.signal.windows as w; w.hamming",
        "from scipy.signal import firwin",
        "from matplotlib.figure import Figure; Figure().subplots()",
        "from matplotlib import colormaps; import matplotlib.pyplot as plt; plt.subplots()",
        "from matplotlib.axes import Axes; assert Axes.__module__.startswith('matplotlib.')",
        "from matplotlib.pyplot import Figure, style; assert Figure.__module__ == 'matplotlib.figure'; style.available",
        "import matplotlib.pyplot as plt; plt.subplots(); from matplotlib.axes import Axes; Axes.plot",
    ],
)
def test_other_modules_get_the_real_ones_meanwhile(wanted: str) -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    run(f"with without_plots_and_signals():\n    {wanted}\n{wanted}")


def test_what_is_imported_already_stays() -> None:
    run("""
import json
for name in ("scipy.signal", "matplotlib"):
    sys.modules[name] = json
with without_plots_and_signals():
    assert sys.modules["scipy.signal"] is sys.modules["matplotlib"] is json
    assert "matplotlib.pyplot" not in sys.modules
assert sys.modules["scipy.signal"] is sys.modules["matplotlib"] is json
""")


def test_what_is_not_installed_stays_missing() -> None:
    run(f"""
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *_: None if name in {[*_NEEDED]} else found(name)
before = {{*sys.modules}}
with without_plots_and_signals():
    assert {{*sys.modules}} == before
""")
