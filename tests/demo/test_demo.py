"""The demo: its pages over HTTP, what it refuses, and how it looks and behaves in a browser."""

import html
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import uvicorn
from starlette.responses import HTMLResponse
from starlette.routing import Route

import yt8m
from tests.browser import console_of, needs_browser, open_page, probe
from tests.training import run_command
from yt8m.demo.app import make_app
from yt8m.demo.catalog import Catalog, Entry, read_catalog
from yt8m.demo.demo import _listen
from yt8m.demo.uploads import Uploads
from yt8m.errors import ConfigError, DataError
from yt8m.restore import restore
from yt8m.video.extractor import FeatureExtractor, VideoFeatures
from yt8m.video.source import Stopped

BYTES = {"Content-Type": "application/octet-stream"}


class FakeExtractor:
    """In place of the networks: a file's first word says what happens. Counts the bytes that reached the disk."""

    seen: list[str] = []  # noqa: RUF012

    def __init__(self, networks, device):
        self.stop = threading.Event()

    @classmethod
    def load(cls, weights, device):
        fake = cls({}, device)
        fake.networks = {}
        return fake

    def __call__(self, path, max_frames):
        self.seen.append(path)
        word = Path(path).read_bytes()[:4]
        if word == b"SLOW":
            assert self.stop.wait(20)
            raise Stopped
        if word == b"JUNK":
            raise DataError(f"{path}: expected a video, found <b>junk</b>")
        rng = np.random.default_rng(0)
        frames = {
            "rgb": rng.integers(0, 256, (23, 1024), np.uint8),
            "audio": rng.integers(0, 256, (23, 128), np.uint8),
        }
        return VideoFeatures(frames, {}, ("no sound: <silence>",))


@pytest.fixture(scope="module")
def model(tiny_run) -> yt8m.Model:
    return yt8m.load(tiny_run / "checkpoints" / "best.ckpt", device="cpu")


@pytest.fixture(scope="module")
def catalog(tiny_run, tmp_path_factory) -> Catalog:
    checkpoint, folder = tiny_run / "checkpoints" / "best.ckpt", tmp_path_factory.mktemp("restored")
    _, _, datamodule = restore(str(checkpoint), folder, {"predict_partition": "validate"})
    return read_catalog(datamodule, "validate", 25)


@pytest.fixture(scope="module")
def driver_pages() -> dict[str, str]:
    """Pages that the tests add to the server, so that they have its origin."""
    return {}


@pytest.fixture(scope="module")
def url(model, catalog, driver_pages) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yt8m.demo.uploads.FeatureExtractor", FakeExtractor)
        uploads = Uploads(model, Path("weights"), most_bytes=200_000, seconds=0.5)
        app = make_app(model, catalog, uploads, "best.ckpt")
        app.router.routes.append(
            Route("/driven/{name}", lambda request: HTMLResponse(driver_pages[request.path_params["name"]]))
        )
        listening = _listen(0)
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()
        listening.close()


def test_videos_by_id_and_by_label(url, model, catalog):
    entry = catalog.entries[4]
    page = requests.get(f"{url}/", params={"q": entry.id}, timeout=20)
    assert page.url == f"{url}/video/{entry.id}"
    text = html.unescape(page.text)
    prediction = model.predict(catalog.record(entry), top_k=15)
    shown = re.search(r'<table class="bars" id="predicted">(.*?)</table>', text, re.S)[1]
    rows = re.findall(r"<td>(.*?)(?: <b .*?)?</td>\s*<td.*?>([\d.]+)</td>", shown)
    assert [name for name, _ in rows] == prediction.names
    assert [float(score) for _, score in rows] == pytest.approx(prediction.scores, abs=6e-4)
    true = re.search(r'id="true">(.*?)</table>', text, re.S)[1]
    assert {*re.findall(r"<td>(.*?) <small>", true)} == {catalog.names[label] for label in entry.labels}
    assert f"genre <b>{prediction.genres[0]}</b>" in text
    timeline = model.timeline(catalog.record(entry), top_k=6)
    chart = json.loads(re.search(r'class="chart".*?json">(.*?)</script>', page.text, re.S)[1])
    assert chart["doc"]
    assert all(name in text for name in timeline.names)

    label = catalog.names[entry.labels[0]]
    for text in (label, label.upper()):
        found = requests.get(f"{url}/", params={"q": text}, timeout=20).text
        ids = [one.id for one in catalog.entries if entry.labels[0] in one.labels]
        assert re.findall(r'href="/video/(.*?)"', found) == ids
    nothing = requests.get(f"{url}/", params={"q": "<script>alert(1)</script>"}, timeout=20).text
    assert "No video among the first 25 of validate" in nothing
    assert "<script>alert" not in nothing
    missing = requests.get(f"{url}/video/../../etc/passwd%00<b>", timeout=20)
    assert missing.status_code == 404
    assert "passwd" not in missing.text or "&lt;b&gt;" in missing.text


def test_uploads_are_limited_and_leave_nothing_behind(url):
    def post(body, headers=BYTES):
        return requests.post(f"{url}/upload", data=body, headers=headers, timeout=20)

    FakeExtractor.seen.clear()
    done = post(b"a video")
    result = requests.get(url + done.json()["location"], timeout=20)
    assert result.status_code == 200
    assert "23 seconds" in result.text
    assert 'id="predicted"' in result.text
    assert '<p class="warning">no sound: &lt;silence&gt;</p>' in result.text
    assert 'id="true"' not in result.text
    refused = {
        "JUNK": (422, "the file: expected a video, found <b>junk</b>"),
        "SLOW": (422, "expected features within 0.5 s, found more to do"),
        "": (400, "expected a video, found an empty file"),
        "x" * 200_001: (413, "expected a video of at most 0 MB, found a larger one"),
    }
    for body, (status, message) in refused.items():
        answer = post(body.encode())
        assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    chunks = iter([b"y" * 150_000, b"y" * 150_000])  # no length is declared
    assert post(chunks).status_code == 413
    assert (
        post(b"a video", {"Content-Type": "text/plain"}).status_code == 415
    )  # what another site's form can send
    assert requests.get(f"{url}/", headers={"Host": "evil.example"}, timeout=20).status_code == 400
    assert requests.get(f"{url}/upload/unknown", timeout=20).status_code == 404
    assert len(FakeExtractor.seen) == 3
    assert not any(Path(path).exists() for path in FakeExtractor.seen)


def test_one_video_at_a_time(url):
    slow = threading.Thread(
        target=requests.post, args=(f"{url}/upload",), kwargs={"data": b"SLOW", "headers": BYTES}
    )
    FakeExtractor.seen.clear()
    slow.start()
    while not FakeExtractor.seen:
        pass
    answer = requests.post(f"{url}/upload", data=b"a video", headers=BYTES, timeout=20)
    slow.join()
    assert (answer.status_code, "one video at a time" in answer.text) == (429, True)


def test_a_catalog_finds_ids_before_labels_and_exact_names_before_parts():
    entries = [Entry(0, "Guitar", (1,)), Entry(1, "b", (0, 1)), Entry(2, "c", (2,)), Entry(3, "d", None)]
    catalog = Catalog(None, entries, ["Guitar", "Guitarist", "Drum"], "test")
    assert [entry.id for entry in catalog.find("Guitar")] == ["Guitar"]
    assert [entry.id for entry in catalog.find("guitar")] == ["b"]
    assert [entry.id for entry in catalog.find("guitari")] == ["Guitar", "b"]
    assert catalog.find("piano") == []
    assert catalog.common(2) == ["Guitarist", "Guitar"]


def test_wrong_calls(tiny_run, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("yt8m.demo.uploads.FeatureExtractor", FeatureExtractor)  # the real one
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: pytest.fail("it serves"))
    listening = _listen(0)
    port = listening.getsockname()[1]
    with pytest.raises(ConfigError, match=f"port: expected a free port, found {port}"):
        _listen(port)
    listening.close()
    checkpoint = f"ckpt_path={tiny_run / 'checkpoints' / 'best.ckpt'}"
    for argument, message in {
        "port=70000": "port: expected a whole number from 0 to 65,535, found 70000",
        "dataset.validate=no/*": "dataset.validate: expected shards at",
        f"weights={tmp_path}": "weights: expected",
    }.items():
        with pytest.raises(SystemExit) as ended:
            run_command("demo", checkpoint, f"hydra.run.dir={tmp_path}", "port=0", argument)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


# In the browser.

# Chooses a file and presses the button, as a user would.
DRIVER = """
const files = new DataTransfer();
files.items.add(new File(["CONTENT"], "holiday.mp4", { type: "video/mp4" }));
document.getElementById("file").files = files.files;
document.querySelector("#upload button").click();
"""


def driven(url: str, content: str) -> str:
    """The start page with a driver, which its own policy would refuse."""
    source = re.sub(r"<meta http-equiv.*?>", "", requests.get(f"{url}/", timeout=20).text)
    return source.replace("</body>", f"<script>{DRIVER.replace('CONTENT', content)}</script></body>")


@needs_browser
def test_it_fits_a_phone_and_a_desk(url, catalog, tmp_path):
    for name, path in (("start", "/"), ("video", f"/video/{catalog.entries[4].id}")):
        page = tmp_path / f"{name}.html"
        page.write_text(requests.get(url + path, timeout=20).text)
        for width in (360, 1200)[: 1 + (name == "video")]:
            seen = probe(page, tmp_path, "", width=width)
            assert (seen["overflow"], seen["outside"]) == (0, []), (name, width)


@needs_browser
def test_upload_and_error_in_the_browser_without_outside_requests(url, driver_pages, tmp_path):
    log = tmp_path / "net.json"
    for content, expected in (
        ("a video", "23 seconds"),
        ("JUNK", "the file: expected a video, found &lt;b&gt;junk"),
    ):
        driver_pages[content] = driven(url, content)
        shown = open_page(f"{url}/driven/{content}", tmp_path / "profile", f"--log-net-log={log}")
        assert expected in shown.stdout
        assert console_of(shown) == [] or content == "JUNK", console_of(shown)
        # What the page asked for; the browser has errands of its own.
        asked = re.findall(r'"initiator":"([^"]*)"[^\n]*?"url":"([^"]*)"', log.read_text())
        requested = {address for initiator, address in asked if initiator == url}
        assert f"{url}/upload" in requested
        assert {one for one in requested if not one.startswith(f"{url}/")} == set()
    assert 'id="predicted"' not in shown.stdout
