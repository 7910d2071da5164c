"""Networks whose weights are sharded over several devices (FSDP)."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` has sharded the network's weights."""
    return isinstance(network, FSDPModule)


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the network's weights over the devices of `mesh`, unless they are."""
    if is_sharded(network):
        return
    for part in reversed(list(network.modules())[1:]):  # a part's own parameters after those inside it
        if next(part.parameters(recurse=False), None) is not None:
            fully_shard(part, mesh=mesh)
    fully_shard(network, mesh=mesh)
    if hasattr(network, "training_loss"):
        register_fsdp_forward_method(network, "training_loss")


def share_buffers(network: nn.Module) -> None:
    """Give every rank the first one's running statistics, which are those that are saved.

    Unlike DDP, FSDP leaves every rank its own. Does nothing if the network is not sharded.
    """
    if is_sharded(network):
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)
