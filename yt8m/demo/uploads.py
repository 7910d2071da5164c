"""Videos from the browser: taken as hostile, so limited in size, time, and number."""

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from yt8m.api.model import Model
from yt8m.api.records import Record, video_record
from yt8m.errors import YT8MError
from yt8m.video.extractor import FeatureExtractor
from yt8m.video.source import Stopped

_RECEIVING = 600.0  # seconds in which an upload must arrive
_DISPLAYED = "Your video"


class RefusedError(YT8MError):
    """An upload that was not taken; `status` is HTTP's."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Uploads:
    """From uploaded bytes to features. One video at a time; its file is deleted afterwards.

    Args:
        model: whose features to extract.
        weights: folder of the networks that extract them.
        most_bytes: of an upload.
        seconds: after which the extraction stops.

    Raises:
        ConfigError: a file of weights is missing or another one's.
    """

    def __init__(self, model: Model, weights: Path, *, most_bytes: int, seconds: float):
        self.networks = FeatureExtractor.load(weights, device=model.device).networks
        self.model, self.most_bytes, self.seconds = model, most_bytes, seconds
        self._busy = asyncio.Lock()

    async def receive(self, body: AsyncIterator[bytes]) -> tuple[Record, tuple[str, ...]]:
        """The features of the video in a request's body, and what to say of the file.

        Raises:
            RefusedError: it is too large, too slow, no video, or another one is being read.
        """
        if self._busy.locked():
            raise RefusedError(429, "expected one video at a time, found another being read; try again soon")
        async with self._busy:
            with tempfile.NamedTemporaryFile(prefix="yt8m-upload-") as file:
                try:
                    async with asyncio.timeout(_RECEIVING):
                        size = 0
                        async for chunk in body:
                            size += len(chunk)
                            if size > self.most_bytes:
                                raise self.too_large()
                            file.write(chunk)
                except TimeoutError:
                    raise RefusedError(408, f"expected the whole video within {_RECEIVING:.0f} s") from None
                file.flush()
                if not size:
                    raise RefusedError(400, "expected a video, found an empty file")
                return await asyncio.to_thread(self._extract, file.name)

    def too_large(self) -> RefusedError:
        """The refusal of an upload that is larger than `most_bytes`."""
        most = f"{self.most_bytes / 1e6:,.0f} MB"
        return RefusedError(
            413, f"expected a video of at most {most}, found a larger one; cut it, or set upload_mb"
        )

    def _extract(self, path: str) -> tuple[Record, tuple[str, ...]]:
        extractor = FeatureExtractor(self.networks, device=self.model.device)
        timer = threading.Timer(self.seconds, extractor.stop.set)
        timer.start()
        try:
            found = extractor(path, max_frames=self.model.max_frames)
            return video_record(found, self.model.feature_sizes, _DISPLAYED), found.notes
        except Stopped:
            raise RefusedError(
                422,
                f"expected features within {self.seconds:g} s, found more to do; cut the video, or set upload_seconds",
            ) from None
        except YT8MError as error:  # its message begins with the temporary path
            raise RefusedError(422, str(error).replace(path, "the file")) from None
        finally:
            timer.cancel()
