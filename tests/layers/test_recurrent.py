"""LSTMs against PyTorch's own, and under mixed precision."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.layers.padded import NUM_FRAMES, padded_videos
from yt8m.layers.keras import KerasLSTM
from yt8m.layers.recurrent import LSTM, BidirectionalLSTM


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_bidirectional_lstm_matches_torch(num_layers):
    x = padded_videos()
    lstm = BidirectionalLSTM(6, 4, num_layers).double()
    reference = nn.LSTM(6, 4, num_layers, batch_first=True, bidirectional=True).double()
    for layer in range(num_layers):
        for ours, suffix in ((lstm.forwards[layer], ""), (lstm.backwards[layer], "_reverse")):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                weight = getattr(reference, f"{name}_l{layer}{suffix}")
                getattr(ours, f"{name}_l0").data.copy_(weight.data)

    packed = pack_padded_sequence(x, NUM_FRAMES, batch_first=True, enforce_sorted=False)
    outputs, _ = pad_packed_sequence(reference(packed)[0], batch_first=True)
    expected = torch.stack([video[valid - 1] for video, valid in zip(outputs, NUM_FRAMES, strict=True)])
    torch.testing.assert_close(lstm(x, NUM_FRAMES), expected, rtol=1e-12, atol=1e-12)
    count = [sum(parameter.numel() for parameter in module.parameters()) for module in (lstm, reference)]
    assert count[0] == count[1]


def test_bf16_autocast_on_a_cpu_computes_in_float32():
    """oneDNN has no bf16 LSTM on CPUs without bf16 instructions."""
    torch.manual_seed(0)
    for layer in (LSTM(6, 4), KerasLSTM(6, 4, go_backwards=True), BidirectionalLSTM(6, 4, 2)):
        rest = () if isinstance(layer, LSTM) and not isinstance(layer, KerasLSTM) else (NUM_FRAMES,)
        x = padded_videos().to(torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = layer(x, *rest)
        torch.testing.assert_close(outputs, layer(x.float(), *rest))
        outputs.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_weights_keep_their_dtype_and_get_the_gradient_of_the_cast_layer():
    """What CUDA runs in bf16, run here in float64, where it must be exact."""
    torch.manual_seed(0)
    lstm, reference = LSTM(6, 4), LSTM(6, 4)
    reference.load_state_dict(lstm.state_dict())
    x = padded_videos()
    outputs = lstm.computed_in(torch.float64, x.float())
    expected = reference.double()(x.float().double())
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    for parameter, other in zip(lstm.parameters(), reference.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        torch.testing.assert_close(parameter.grad, other.grad.float())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bf16_autocast_on_a_gpu_computes_in_bf16():
    """Autocast alone would compute in fp16, where these gradients are zero."""
    torch.manual_seed(0)
    lstm = LSTM(64, 64).cuda()
    x = torch.randn(8, 20, 64, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        outputs = lstm(x)
    assert outputs.dtype == torch.bfloat16
    (outputs.float() * 1e-8).sum().backward()
    assert all(parameter.grad.count_nonzero() > 0 for parameter in lstm.parameters())
