"""Operations on valid frames, video by video."""

import torch

from tests.layers.padded import NUM_FRAMES, padded_videos
from yt8m.layers.masks import last_valid, max_over_valid, reverse_valid, valid_frames


def test_operations_ignore_padding():
    x = padded_videos()
    for row, video in enumerate(x):
        valid = NUM_FRAMES[row]
        assert valid_frames(x, NUM_FRAMES)[row].tolist() == [True] * valid + [False] * (9 - valid)
        assert last_valid(x, NUM_FRAMES)[row].equal(video[valid - 1])
        assert reverse_valid(x, NUM_FRAMES)[row].equal(torch.cat([video[:valid].flip(0), video[valid:]]))
        assert max_over_valid(x, NUM_FRAMES)[row].equal(video[:valid].max(dim=0).values)
    assert reverse_valid(reverse_valid(x, NUM_FRAMES), NUM_FRAMES).equal(x)
