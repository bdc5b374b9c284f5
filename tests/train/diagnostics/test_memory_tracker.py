"""The footprint of small models equals that of PyTorch's tracker, and traffic that of ring algorithms."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from brew_train.diagnostics.memory_tracker import Footprint, Memory, Traffic

WIDTH, LAYERS, TOKENS, RANKS = 64, 3, 40, 8


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    yield init_device_mesh("cpu", (2, RANKS // 2), mesh_dim_names=("replicate", "shard"))
    dist.destroy_process_group()


def sharded(mesh: DeviceMesh) -> nn.Sequential:
    """Three matrices, each its own group that is gathered twice."""
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def test_peak_equals_that_of_pytorchs_tracker(mesh: DeviceMesh) -> None:
    with FakeTensorMode():
        model = sharded(mesh)
        rows = torch.zeros(TOKENS, WIDTH)
        theirs, ours = FSDPMemTracker(model), Footprint()
        with theirs:
            model(rows).relu().sum().backward()
        model.zero_grad()
        ours.hold([parameter.to_local() for parameter in model.parameters()], "parameters")
        with ours:
            model(rows).relu().sum().backward()
    (expected,) = theirs.get_tracker_snapshot("peak").values()
    assert ours.peak().total == expected["Total"]
    assert ours.peak().parameters == LAYERS * WIDTH * WIDTH // (RANKS // 2) * 4


def test_traffic_is_that_of_rings(mesh: DeviceMesh) -> None:
    model = sharded(mesh)  # on real tensors
    footprint = Footprint()
    with footprint:
        model(torch.zeros(TOKENS, WIDTH)).sum().backward()
    whole, shards = LAYERS * WIDTH * WIDTH, RANKS // 2
    assert footprint.traffic == Traffic(
        all_gather=2 * whole * 2 * (shards - 1) // shards,  # forward and backward, 2 bytes
        reduce_scatter=whole * 4 * (shards - 1) // shards,
        all_reduce=2 * (whole // shards * 4) * (2 - 1) // 2,  # this rank's shards over 2 replicas
        calls=LAYERS * 4,
    )
    assert footprint.now().gradients == whole // shards * 4
    assert footprint.now().gathered == 0


def test_memory_is_tracked_until_it_is_freed() -> None:
    footprint = Footprint()
    kept = torch.zeros(100)
    footprint.hold([kept], "parameters")
    with footprint:
        first = torch.ones(1000)
        view = first[10:]
        second = first * 2
        del first
    assert footprint.now() == Memory(parameters=400, activations=8000)  # a view keeps the whole alive
    del view
    assert footprint.now() == Memory(parameters=400, activations=4000)
    with footprint:
        second.untyped_storage().resize_(0)
        third = torch.ones(500)
    assert footprint.now() == Memory(parameters=400, activations=2000)
    assert footprint.peak().total == 8400
    del kept, third
    assert footprint.now().total == 0
