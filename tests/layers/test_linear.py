import pytest
import torch
from torch import nn

from yt8m.layers.linear import Linear


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each call was computed: "as nn.Linear", or not listed."""
    calls: list[str] = []
    forward = nn.Linear.forward

    def noted(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        calls.append("as nn.Linear")
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", noted)
    return calls


def both(bias: bool = True, size: int = 13) -> tuple[Linear, nn.Linear]:
    layer, reference = Linear(32, size, bias=bias), nn.Linear(32, size, bias=bias)
    reference.load_state_dict(layer.state_dict())
    return layer, reference


@pytest.mark.parametrize("shape", [(5, 32), (1, 32), (0, 32), (32,), (4, 7, 32), (2, 3, 2, 32)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_a_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    layer, reference = both(bias)
    inputs = [torch.randn(shape).requires_grad_() for _ in "ab"]
    inputs[1].data.copy_(inputs[0].data)
    outputs = [layer(inputs[0]), reference(inputs[1])]
    assert outputs[0].shape == outputs[1].shape
    assert outputs[0].is_contiguous()
    gradient = torch.randn_like(outputs[1])
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for mine, theirs in zip(layer.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_rows_of_the_input_may_lie_anywhere() -> None:
    layer, reference = both()
    for x in (torch.randn(32, 6).t(), torch.randn(6, 80)[:, 3:35], torch.randn(1, 32).expand(6, 32)):
        torch.testing.assert_close(layer(x), reference(x))


def test_only_float32_products_without_autocast_are_turned(products: list[str]) -> None:
    layer, _ = both()
    assert layer(torch.randn(4, 32)).dtype == torch.float32
    assert not products
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(4, 32)).dtype == torch.bfloat16
    assert len(products) == 1
    layer.double()(torch.randn(4, 32, dtype=torch.float64))
    assert len(products) == 2
    both(size=16)[0](torch.randn(4, 32))
    assert len(products) == 3


def test_an_exported_layer_is_one_linear_operation() -> None:
    layer, reference = both()
    batch = torch.export.Dim("batch")
    program = torch.export.export(layer, (torch.randn(4, 32),), dynamic_shapes=({0: batch},))
    operations = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert operations == ["aten.linear.default"]
    x = torch.randn(9, 32)
    torch.testing.assert_close(program.module()(x), reference(x))
