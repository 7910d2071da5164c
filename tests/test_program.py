"""A classifier's network as an exported program."""

import torch

from tests.test_module import classifier
from yt8m.program import export_program


def test_a_program_takes_what_the_network_reads_at_any_size():
    for model in ("nn", "bi_lstm"):
        one = classifier(model).train()
        program = export_program(one).module()
        assert one.model.training, model
        one.eval()
        for videos, length in ((1, 1), (3, 11)):
            num_frames = torch.full((videos,), length)
            frames = torch.randn(videos, length, 8) if one.needs_frames else None
            video = torch.randn(videos, 8) if one.needs_video else None
            torch.testing.assert_close(program(video, frames, num_frames), one(video, frames, num_frames))
