"""Video classification on YouTube-8M in PyTorch Lightning and Hydra.

```python
import yt8m

model = yt8m.load("best.ckpt")
for video in yt8m.open("data/*.tfrecord"):
    print(video.id, model.predict(video).names[:3])
```
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yt8m.api.model import Model, load
    from yt8m.api.predictions import Prediction, Predictions, Timeline
    from yt8m.api.records import Record, Records
    from yt8m.api.records import open_shards as open

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "Predictions", "Record", "Records", "Timeline", "load", "open"]

# Imported on first use: `import yt8m` stays free of torch.
_HOMES = {
    "load": "yt8m.api.model:load",
    "open": "yt8m.api.records:open_shards",
    "Model": "yt8m.api.model:Model",
    "Prediction": "yt8m.api.predictions:Prediction",
    "Predictions": "yt8m.api.predictions:Predictions",
    "Timeline": "yt8m.api.predictions:Timeline",
    "Record": "yt8m.api.records:Record",
    "Records": "yt8m.api.records:Records",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = globals()[name] = getattr(importlib.import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
