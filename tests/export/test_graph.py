"""A classifier as an exported program."""

import torch

from tests.test_module import classifier
from yt8m.export.graph import make_program


def test_a_program_takes_what_the_network_reads_at_any_size():
    for model in ("nn", "bi_lstm"):
        one = classifier(model).train()
        program = make_program(one, "frames", torch.float32).module()
        assert one.model.training, model
        one.eval()
        for videos, length in ((1, 1), (3, 11)):
            num_frames = torch.full((videos,), length)
            frames = torch.randn(videos, length, 8)
            video = frames.mean(dim=1) if one.needs_video else None
            scores = one(video, frames if one.needs_frames else None, num_frames).sigmoid()
            torch.testing.assert_close(program(frames, num_frames), scores)
