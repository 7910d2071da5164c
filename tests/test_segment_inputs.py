"""What a network reads of a segment with context: the video's frames around it, and a mark on its own."""

import torch

from yt8m.datamodules.batch import Batch
from yt8m.inputs import convert
from yt8m.objective import Objective
from yt8m.predict.combine import whole_videos


def segments():
    """Two videos of 7 and 3 frames; rows: frames 2-6 of the first with 2 around it, and all of the second."""
    features = torch.arange(20, dtype=torch.uint8).view(10, 2)
    return Batch(
        ["a:2", "b:0"],
        features,
        torch.tensor([7, 3]),
        videos=torch.tensor([0, 3]),  # two records between them were skipped
        first=torch.tensor([0, 7]),
        marks=torch.tensor([[2, 7], [0, 3]]),
    )


def test_context_is_gathered_and_the_segment_is_marked():
    batch, mark = segments(), torch.tensor([100.0, 0.0])
    options = {"level": "segment", "quantization": (-2.0, 2.0), "length": 8, "transform": None}
    plain = convert(batch, video=True, frames=True, **options)
    video, frames, num_frames = convert(batch, video=True, frames=True, mark=mark, **options)
    own = Batch(["a", "b"], batch.features, torch.tensor([7, 3]))
    _, expected, _ = convert(own, video=False, frames=True, **options)
    assert torch.equal(plain[1], expected)
    added = frames - expected
    inside = torch.zeros(2, 8, dtype=torch.bool)
    inside[0, 2:7], inside[1, :3] = True, True
    torch.testing.assert_close(added[inside], mark.expand(8, 2))
    assert (added[~inside] == 0).all()
    torch.testing.assert_close(video, torch.stack([expected[0, 2:7].mean(0), expected[1, :3].mean(0)]))
    assert num_frames.tolist() == [7, 3]


def test_a_batch_splits_into_rows_that_share_its_frames():
    first, second = segments().split(1)
    assert (first.ids, second.ids) == (["a:2"], ["b:0"])
    assert first.features is second.features
    assert second.first.tolist() == [7]


def test_all_segments_of_a_batch_are_its_videos():
    features = torch.zeros(10, 2, dtype=torch.uint8)
    rows = Batch(["a:0", "a:5", "b:0"], features, torch.tensor([5, 2, 3]), videos=torch.tensor([0, 0, 3]))
    videos, owner = whole_videos(rows)
    assert videos.num_frames.tolist() == [7, 3]
    assert owner.tolist() == [0, 0, 1]


def test_unrated_classes_count_as_false_only_if_asked():
    class Classifier:
        model = torch.nn.Identity()

        def inputs(self, batch):
            return (torch.zeros(1, 3),)

        def labels(self, batch):
            return torch.tensor([[True, False, False]])

        def mask(self, batch):
            return torch.tensor([[True, True, False]])

        def loss(self, logits, labels, mask):
            return torch.tensor(3 if mask is None else int(mask.sum()))

        def __call__(self, video):
            return video

    for unrated, counted in (("ignored", 2), ("negative", 3)):
        assert Objective({"rgb": 3}, "segment", unrated=unrated)(Classifier(), None) == counted
