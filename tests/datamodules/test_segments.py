"""Segments: which frames and ratings a row has, by both readers, against the reference reader's definition."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.datamodules import records
from tests.datamodules.records import sequence_example, write_shard
from yt8m.datamodules.dataset import ShardDataset

SIZES = {"rgb": 12, "audio": 5}
CLASSES, MAX_FRAMES = 20, 30


def segment_video(rng, name, frames, ratings=None):
    """A video whose ratings are (start, class, score); None for one that was not rated."""
    context = {"id": name, "labels": [1, 2]}
    if ratings is not None:
        starts, labels, scores = zip(*ratings, strict=True) if ratings else ((), (), ())
        context |= {
            "segment_start_times": starts,
            "segment_end_times": [start + 5 for start in starts],
            "segment_labels": labels,
            "segment_scores": np.array(scores, np.float32),
        }
    return context, {key: rng.integers(0, 256, (frames, size), np.uint8) for key, size in SIZES.items()}


def hand_made(rng):
    """Unsorted, overlapping and repeated segments, rated and unrated videos in turn."""
    return [
        segment_video(rng, "plain", 30, [(20, 3, 1), (5, 4, 0), (20, 2, 0), (20, 7, 1)]),
        segment_video(rng, "unrated", 12),
        segment_video(rng, "overlapping", 28, [(3, 1, 1), (0, 1, 0), (6, 5, 1), (3, 6, 1)]),
        segment_video(rng, "twice", 20, [(10, 8, 1), (5, 9, 0), (10, 8, 0), (5, 9, 1), (5, 9, 1)]),
        segment_video(rng, "no ratings", 9, []),
        segment_video(rng, "over the end", 13, [(10, 8, 1), (0, 2, 1)]),
        segment_video(rng, "in the padding", 11, [(15, 8, 1), (11, 3, 0), (5, 2, 1)]),
        segment_video(rng, "over the last kept frame", 45, [(28, 8, 1), (25, 3, 1)]),
    ]


def write(path: Path, videos) -> Path:
    return write_shard(path, [sequence_example(*video) for video in videos])


def odd(path: Path, videos) -> Path:
    """The same videos in a layout that only the careful reader takes: each context in two parts."""

    def payload(context, lists):
        items = [*context.items()]
        first, second = (records.field(1, records.features(dict(part))) for part in (items[:1], items[1:]))
        whole = sequence_example(context, lists)
        length = len(records.field(1, records.features(context)))
        return first + second + whole[length:]

    return write_shard(path, [payload(*video) for video in videos])


def reference_rows(video):
    """The starter code's reader, written from its definition: id, five frames [5, D] of the padded video, labels,
    weights. It stops at a segment that crosses the last frame that is kept (None)."""
    context, lists = video
    kept = np.hstack(list(lists.values()))[:MAX_FRAMES]
    padded = np.zeros((MAX_FRAMES, kept.shape[1]), np.uint8)
    padded[: len(kept)] = kept
    starts = list(dict.fromkeys(context.get("segment_start_times", ())))
    labels, weights = np.zeros((2, len(starts), CLASSES))
    for start, label, score in zip(
        *(context.get(f"segment_{key}", ()) for key in ("start_times", "labels", "scores")), strict=True
    ):
        labels[starts.index(start), label] = score  # the last of several wins
        weights[starts.index(start), label] = 1
    frames = [padded[s : s + 5] if s + 5 <= MAX_FRAMES else None for s in starts]
    return [f"{context['id']}:{start}" for start in starts], frames, labels > 0, weights > 0, len(kept)


def dense(index, rows):
    found = np.zeros((rows, CLASSES), bool)
    found[tuple(index.numpy().T)] = True
    return found


@pytest.mark.parametrize("layout", [write, odd], ids=["fast", "careful"])
def test_rated_segments_are_the_references_where_that_has_frames(tmp_path, rng, layout):
    videos = hand_made(rng)
    dataset = ShardDataset([layout(tmp_path / "a", videos)], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES)
    for order in ([*range(8)], [3, 1, 0], [6, 5], [7, 2, 7], [1, 4]):
        batch = dataset.__getitems__(order)
        assert batch.slow_records == (len(order) if layout is odd else 0)
        assert batch.unrated == sum(number in (1, 4) for number in order)
        ids, labels, weights = [], [], []
        frames = torch.split(batch.features, batch.num_frames.tolist())
        owners = []
        for position, number in enumerate(order):
            names, expected, of_labels, of_weights, length = reference_rows(videos[number])
            owners += [position] * len(names)
            for name, five in zip(names, expected, strict=True):
                own = frames[len(ids)].numpy()
                start = int(name.rpartition(":")[2])
                kept = np.hstack(list(videos[number][1].values()))[:MAX_FRAMES]
                if start < length:  # the reference's frames, but for those of its padding
                    assert len(own) == min(5, length - start)
                    assert five is None or (own == five[: len(own)]).all()
                    assert (own == kept[start : start + 5]).all()
                else:  # nothing but padding there; here the last frame
                    assert (own == kept[-1:]).all()
                ids.append(name)
            labels += [*of_labels]
            weights += [*of_weights]
        assert batch.ids == ids
        assert batch.videos.tolist() == owners
        assert (dense(batch.label_index, len(ids)) == np.reshape(labels, (-1, CLASSES))).all()
        assert (dense(batch.label_mask, len(ids)) == np.reshape(weights, (-1, CLASSES))).all()
        assert len(batch.features) == batch.num_frames.sum()


@pytest.mark.parametrize("layout", [write, odd], ids=["fast", "careful"])
def test_all_segments_are_those_of_the_references_inference(tmp_path, rng, layout):
    videos = hand_made(rng)
    dataset = ShardDataset(
        [layout(tmp_path / "a", videos)], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES, segments="all"
    )
    batch = dataset.__getitems__(range(8))
    assert batch.label_index is None
    assert batch.label_mask is None
    assert batch.unrated == 0
    lengths = [min(len(lists["rgb"]), MAX_FRAMES) for _, lists in videos]
    starts = [range(0, length, 5) for length in lengths]
    assert batch.ids == [f"{v[0]['id']}:{s}" for v, of in zip(videos, starts, strict=True) for s in of]
    assert batch.num_frames.tolist() == [
        min(5, n - s) for n, of in zip(lengths, starts, strict=True) for s in of
    ]
    whole = [np.hstack(list(lists.values()))[:MAX_FRAMES] for _, lists in videos]
    np.testing.assert_array_equal(batch.features, np.vstack(whole))
    buffer = torch.empty(dataset.max_rows(range(8)), 17, dtype=torch.uint8)
    assert dataset.read_into(range(8), buffer).features.data_ptr() == buffer.data_ptr()


@pytest.mark.parametrize("layout", [write, odd], ids=["fast", "careful"])
def test_context_adds_the_videos_frames_around_a_segment_and_marks_it(tmp_path, rng, layout):
    videos = hand_made(rng)
    path = layout(tmp_path / "a", videos)
    plain = {
        kind: ShardDataset([path], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES, segments=kind)
        for kind in ("rated", "all")
    }
    order = [6, 0, 1, 7, 5, 2]
    for kind, without in plain.items():
        expected = without.__getitems__(order)
        segments = torch.split(expected.features, expected.num_frames.tolist())
        for context in (1, 4, 1000, "video"):
            dataset = ShardDataset(
                [path], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES, segments=kind, context=context
            )
            batch = dataset.__getitems__(order)
            for name in ("ids", "unrated"):
                assert getattr(batch, name) == getattr(expected, name)
            for name in ("label_index", "label_mask", "videos"):
                found, other = getattr(batch, name), getattr(expected, name)
                assert (found is None and other is None) or torch.equal(found, other), name
            reach = 10**6 if context == "video" else context
            for row, name in enumerate(batch.ids):
                whole = np.hstack(list(videos[order[batch.videos[row]]][1].values()))[:MAX_FRAMES]
                start = min(int(name.rpartition(":")[2]), len(whole) - 1)
                begin, end = max(start - reach, 0), min(start + len(segments[row]) + reach, len(whole))
                first = int(batch.first[row])
                own = batch.features[first : first + int(batch.num_frames[row])]
                np.testing.assert_array_equal(own, whole[begin:end])
                low, high = batch.marks[row].tolist()
                assert torch.equal(own[low:high], segments[row])


def test_an_unusual_record_among_usual_ones_keeps_its_place(tmp_path, rng):
    videos = hand_made(rng)
    usual, unusual = write(tmp_path / "a", videos), odd(tmp_path / "b", videos)
    for options in ({}, {"segments": "all"}, {"context": 3}, {"context": "video", "segments": "all"}):
        one = ShardDataset([usual], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES, **options)
        both = ShardDataset([usual, unusual], SIZES, CLASSES, "segment", max_frames=MAX_FRAMES, **options)
        mixed = both.__getitems__([0, 9, 2, 11, 4, 5, 14, 7])
        alone = one.__getitems__(range(8))
        assert mixed.slow_records == 3
        for name, value in vars(alone).items():
            other = getattr(mixed, name)
            if name != "slow_records":
                assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name
