"""Attention over the valid frames of padded videos."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from yt8m.layers.masks import valid_frames

# Not cuDNN's, which PyTorch prefers on an H100 where there is no dropout: it plans anew, for about half a second, for
# each number of videos and of frames.
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class AttentionPooling(nn.Module):
    """Pool frames by multi-head attention with one learned query per head, `[B, T, D] -> [B, heads · head_size]`.

    Head h yields Σ_t a_th · v_th, where v_th are head_size units of a Dense layer on frame t, and a_h is the softmax
    over the valid frames of another Dense layer's unit h: a query times the frame's keys, as one vector.

    Source: the pooling by multi-head attention of Lee et al. 2019, arXiv 1810.00825, with one seed vector.
    """

    def __init__(self, input_size: int, num_heads: int, head_size: int):
        super().__init__()
        self.num_heads = num_heads
        self.scores = nn.Linear(input_size, num_heads, bias=False)  # a bias would not change a softmax
        self.values = nn.Linear(input_size, num_heads * head_size)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        valid = valid_frames(x, num_frames)[..., None]  # [B, T, 1]
        x = x.masked_fill(~valid, 0)
        attention = self.scores(x).masked_fill(~valid, -torch.inf).softmax(dim=1)  # [B, T, heads]
        # Pool first, then project: the softmax sums to 1, so the bias passes through unchanged.
        pooled = (attention.to(x.dtype).transpose(1, 2) @ x).transpose(0, 1)  # [heads, B, D]
        weight = self.values.weight.view(self.num_heads, -1, x.shape[2])  # [heads, head_size, D]
        values = (pooled @ weight.transpose(1, 2)).transpose(0, 1)  # [B, heads, head_size]
        pooled_heads: Tensor = values.flatten(1) + self.values.bias
        return pooled_heads


class EncoderLayer(nn.Module):
    """A pre-norm Transformer layer, `[B, T, D] -> [B, T, D]`: self-attention among the valid frames, then dense layers.

    ```
    x + Dropout(Dense(attention(LayerNorm(x)))) → x + Dropout(Dense(GELU(Dense(LayerNorm(x)))))
    ```

    Source: Vaswani et al. 2017, arXiv 1706.03762, with the norms where Xiong et al. 2020, arXiv 2002.04745, put them.

    Args:
        size: D, a multiple of `num_heads`.
        num_heads: heads of the attention.
        intermediate_size: units of the dense layers between.
        dropout: probability of dropping a unit, or an attention weight, in training.
    """

    def __init__(self, size: int, num_heads: int, intermediate_size: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.dense_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.output = nn.Linear(size, size)
        self.dense = nn.Sequential(
            nn.Linear(size, intermediate_size), nn.GELU(), nn.Linear(intermediate_size, size)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        query, key, value = (
            dense(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, heads, T, D / heads]
            for dense in (self.query, self.key, self.value)
        )
        mask = valid_frames(x, num_frames)[:, None, None]  # [B, 1, 1, T]
        dropout = self.dropout.p if self.training else 0.0
        with sdpa_kernel(_KERNELS):
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        x = x + self.dropout(self.output(attended.transpose(1, 2).flatten(2)))
        added: Tensor = x + self.dropout(self.dense(self.dense_norm(x)))
        return added


def sinusoids(length: int, size: int, like: Tensor) -> Tensor:
    """Encodings of positions 0 … length − 1, `[length, size]`: sin in even columns, cos in odd ones.

    Column 2i and 2i + 1 have the angle t / 10000^(2i / size). Source: Vaswani et al. 2017, section 3.5.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # bf16 cannot tell large positions apart
    columns = torch.arange(size, device=like.device)
    rate = 10_000.0 ** (-(columns - columns % 2).to(dtype) / size)
    angles = torch.arange(length, device=like.device)[:, None] * rate
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).to(like.dtype)
