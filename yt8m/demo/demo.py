"""The demo's server, on this machine only."""

import logging
import socket
from pathlib import Path
from typing import Any

from yt8m.api.model import Model
from yt8m.demo.catalog import read_catalog
from yt8m.errors import ConfigError, require
from yt8m.restore import restore
from yt8m.train.session import lightning_session

log = logging.getLogger(__name__)


@lightning_session()
def demo(config: dict[str, Any]) -> None:
    """Serve the demo as `conf/demo.yaml` says, until Ctrl-C.

    Raises:
        ConfigError: an argument is wrong, a package is missing, or the port is taken.
        DataError: a shard is damaged.
    """
    for package in ("starlette", "uvicorn"):
        require(package, "yt8m.demo")
    import uvicorn

    from yt8m.demo.app import make_app
    from yt8m.demo.uploads import Uploads

    listening = _listen(config["port"])
    with listening:
        dataset = config["dataset"] | {"predict_partition": config["split"]}
        path, classifier, datamodule = restore(
            config["ckpt_path"], Path(config["output_dir"]), dataset, config["trusted_packages"]
        )
        model = Model(classifier)
        uploads = None
        if config["weights"] is not None:
            require("av", "weights")
            uploads = Uploads(
                model,
                Path(config["weights"]).expanduser(),
                most_bytes=int(config["upload_mb"] * 1e6),
                seconds=config["upload_seconds"],
            )
        catalog = read_catalog(datamodule, config["split"], config["dataset"]["limit_videos"])
        app = make_app(model, catalog, uploads, str(path))
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=3
            )
        )
        server.run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    """A socket on loopback, which no other machine can reach."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(
            f"port: expected a free port, found {port}: {error.strerror}; set port, or port=0 for any"
        ) from None
