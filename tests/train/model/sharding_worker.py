"""One of four processes for test_sharding.py: `torchrun sharding_worker.py folder`; rank 0 writes its results there.

Everything is measured in one launch, because starting processes takes longer than all of it.
"""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MixtralConfig, MixtralForCausalLM

from brew_train.checkpoints.export import export
from brew_train.checkpoints.export_template import ExportTemplate
from brew_train.checkpoints.manifest import Checkpoint
from brew_train.checkpoints.state import CheckpointState
from brew_train.config import ModelConfig, ModelShape, ShardingConfig, StageConfig
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch, Bin, collate
from brew_train.inputs.bin_order import BinOrderState
from brew_train.model.init_weights import materialize
from brew_train.model.model import RankingLM, build_model
from brew_train.model.sharding import micro_step, shard
from brew_train.objectives.base import make_objective
from brew_train.train_state import TrainState


def state_of(average_weight: float | None) -> CheckpointState:
    return CheckpointState(
        stage="cpt",
        train_state=TrainState(),
        position=BinOrderState(plan_hash="a" * 64),
        seed=0,
        optimizer=[],
        average_weight=average_weight,
    )


SHAPE = ModelShape(vocabulary_size=50, context_length=64)
FRESH = ModelConfig(hidden_size=16, intermediate_size=16, layers=2, heads=4, kv_heads=2, initializer_range=0.3)
# hidden size, experts' width, experts, token ids: "grown" gains 9 rows of embeddings, and the last shard is mixed
EXPERTS = {"fresh": (16, 16, 4, 50), "inner": (16, 9, 4, 50), "padded": (18, 9, 3, 50), "grown": (16, 16, 4, 47)}


@dataclass(kw_only=True)
class Run:
    """One model in one process group, and the bins of all workers."""

    config: ModelConfig
    context: DistributedContext
    sharding: ShardingConfig
    bins: list[Bin]

    def __post_init__(self) -> None:
        self.model: RankingLM = build_model(self.config, SHAPE)
        shard(self.model, self.context, self.sharding)
        materialize(self.model, self.config, self.context, seed=5)
        self.model.train()
        self.counts_3 = sum(collate([b]).counts() for b in self.bins)
        share = len(self.bins) // self.context.size
        self.mine = self.bins[self.context.rank * share : (self.context.rank + 1) * share]

    def backward(self, batch: Batch, *, micro_steps: int = 1) -> torch.Tensor:
        objective = make_objective({"name": "next_token", "prompt_weight": 0.3}).bind(
            self.counts_3, micro_steps=micro_steps
        )
        loss, _, _ = self.model(batch, objective, self.context)
        (loss * self.context.size).backward()
        return loss.detach()

    def step(self) -> tuple[float, dict[str, torch.Tensor]]:
        """The loss of all workers and the whole gradients."""
        micro_step(self.model, last=True, sharding=self.sharding)
        loss = self.context.sum_(self.backward(collate(self.mine)))
        return loss.item(), self.gradients()

    def gradients(self) -> dict[str, torch.Tensor]:
        found = {name: whole(p.grad) for name, p in self.model.named_parameters() if p.grad is not None}
        self.model.zero_grad()
        return found

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: whole(p.detach()) for name, p in self.model.named_parameters()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def difference(found: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert found.keys() == other.keys()
    return max((found[name] - other[name]).abs().max().item() for name in found)


def make_bins(count: int) -> list[Bin]:
    generator = torch.Generator().manual_seed(0)
    bins = []
    for _ in range(count):
        lengths = torch.randint(2, 9, (3,), generator=generator)
        tokens = int(lengths.sum())
        ids = torch.randint(50, (tokens,), generator=generator, dtype=torch.int32)
        roles = torch.randint(2, (tokens,), generator=generator, dtype=torch.uint8)
        bins.append(Bin(input_ids=ids.numpy(), doc_lengths=lengths.int().numpy(), roles=roles.numpy()))
    return bins


def write_model(folder: Path, hidden_size: int, intermediate_size: int, experts: int, vocabulary: int) -> ModelConfig:
    torch.manual_seed(1)
    MixtralForCausalLM(
        MixtralConfig(
            vocab_size=vocabulary, hidden_size=hidden_size, head_dim=8, intermediate_size=intermediate_size,
            num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, num_local_experts=experts,
            max_position_embeddings=64, initializer_range=0.3,
        )
    ).save_pretrained(folder, max_shard_size="20KB")  # fmt: skip
    return ModelConfig(init_from=str(folder))


def write_gemma(folder: Path) -> ModelConfig:
    """A tied embedding, which the root scales and grows, and a window that is shorter than the documents."""
    torch.manual_seed(1)
    Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=47, hidden_size=16, head_dim=8, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3, sliding_window=4,
            layer_types=["sliding_attention", "full_attention"], attention_bias=True, query_pre_attn_scalar=6,
        )
    ).save_pretrained(folder, max_shard_size="3KB")  # fmt: skip
    return ModelConfig(init_from=str(folder))


def against_one_process(
    configs: dict[str, ModelConfig], contexts: dict[str, DistributedContext], bins: list[Bin]
) -> dict[str, Any]:
    """Loss, gradients and weights of every way to shard against those of the whole model in this process."""
    found: dict[str, Any] = {}
    alone = DistributedContext(device=torch.device("cpu"))
    frugal = ShardingConfig(reshard_after_forward=True, activation_checkpointing=True)
    for name, config in configs.items():
        reference = Run(config=config, context=alone, sharding=ShardingConfig(), bins=bins)
        weights, (loss, gradients) = reference.weights(), reference.step()
        for kind, context in contexts.items():
            for sharding in (ShardingConfig(), frugal) if name == "fresh" else (ShardingConfig(),):
                run = Run(config=config, context=context, sharding=sharding, bins=bins)
                experts = getattr(run.model.lm.model.layers[0].mlp, "experts", None)
                sharded_weights, (sharded_loss, sharded_gradients) = run.weights(), run.step()
                found[f"{name} {kind}{' frugal' if sharding is frugal else ''}"] = {
                    "dims": [p.placements[-1].dim for p in (experts.gate_up_proj, experts.down_proj)]
                    if experts
                    else [],
                    "weights": difference(sharded_weights, weights),
                    "loss": abs(sharded_loss - loss),
                    "gradients": difference(sharded_gradients, gradients),
                    "scale": max(gradient.abs().max().item() for gradient in gradients.values()),
                }
    return found


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that was allocated; views, of mapped files too, allocate nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # once DTensor has turned it into operations on shards
        out = func(*args, **(kwargs or {}))
        inputs, outputs = (
            {
                t.untyped_storage()._cdata: t.untyped_storage().nbytes()
                for t in tree_leaves(tensors)
                if torch.is_tensor(t)
            }
            for tensors in (args, out)
        )
        self.bytes = max(self.bytes, *(size for storage, size in outputs.items() if storage not in inputs), 0)
        return out


def largest_tensors(configs: dict[str, ModelConfig], context: DistributedContext) -> dict[str, dict[str, int]]:
    """Bytes of the largest tensor that making the weights took, of the largest parameter, and of the largest shard."""
    found = {}
    for name in ("fresh", "inner"):
        model = build_model(configs[name], SHAPE)
        shard(model, context, ShardingConfig())
        with Largest() as allocated:
            materialize(model, configs[name], context, seed=5)
        found[name] = {
            "allocated": allocated.bytes,
            "parameter": max(4 * parameter.numel() for parameter in model.parameters()),
            "shard": max(parameter.to_local().untyped_storage().nbytes() for parameter in model.parameters()),
        }
    return found


def micro_steps(contexts: dict[str, DistributedContext], bins: list[Bin]) -> dict[str, Any]:
    """Collectives of each of three micro-steps, and their gradients against those of one step."""
    found: dict[str, Any] = {}
    config = replace(FRESH, router_aux_loss=0.0)  # its statistics are of each micro-step, and cost a collective
    for kind, context in contexts.items():
        for keep in (True, False):
            sharding = ShardingConfig(reshard_after_forward=not keep)
            run = Run(config=config, context=context, sharding=sharding, bins=bins)
            _, expected = run.step()
            counts = []
            for index, part in enumerate(run.mine):
                micro_step(run.model, last=index == len(run.mine) - 1, sharding=sharding)
                with CommDebugMode() as calls:
                    run.backward(collate([part]), micro_steps=len(run.mine))
                counts.append({str(call).split(".")[-1]: n for call, n in calls.get_comm_counts().items()})
            found[f"{kind} {'keep' if keep else 'free'}"] = {
                "calls": counts,
                "gradients": difference(run.gradients(), expected),
            }
    return found


def stale_weights(context: DistributedContext, bins: list[Bin]) -> float:
    """Return the error of the loss if the optimizer changes the shards after a forward pass."""
    run = Run(config=FRESH, context=context, sharding=ShardingConfig(), bins=bins)
    shards = [parameter.detach().to_local() for parameter in run.model.parameters()]
    expected, _ = run.step()
    with torch.no_grad():
        for shard_ in shards:
            shard_.mul_(2.0)
        run.model(collate(run.mine), make_objective(StageConfig().objective).bind(run.counts_3), context)
        for shard_ in shards:
            shard_.mul_(0.5)
    return abs(run.step()[0] - expected)


def kept_for_backward(bins: list[Bin]) -> dict[str, int]:
    """Bytes of activations that a forward pass leaves for its backward pass, without and with checkpointing."""
    found = {}
    for on in (False, True):
        sharding = ShardingConfig(activation_checkpointing=on)
        run = Run(config=FRESH, context=DistributedContext(device=torch.device("cpu")), sharding=sharding, bins=bins)
        weights = {parameter.untyped_storage().data_ptr() for parameter in run.model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = run.model(
                collate(run.mine), make_objective(StageConfig().objective).bind(run.counts_3), run.context
            )
        found["checkpointed" if on else "plain"] = sum(n for pointer, n in kept.items() if pointer not in weights)
        del result
    return found


def compiled(bins: list[Bin]) -> dict[str, float]:
    """Loss and gradients of compiled layers against plain ones, for rows of two lengths."""
    alone = DistributedContext(device=torch.device("cpu"))
    differences = []
    for some in (bins, bins[:5]):
        steps = [
            Run(config=FRESH, context=alone, sharding=sharding, bins=some).step()
            for sharding in (ShardingConfig(), ShardingConfig(compile=True, activation_checkpointing=True))
        ]
        (loss, gradients), (other_loss, other_gradients) = steps
        differences += [abs(loss - other_loss), difference(gradients, other_gradients)]
    return {"difference": max(differences), "graphs": float(counters["stats"]["unique_graphs"])}


def checkpoint_and_export(context: DistributedContext, bins: list[Bin], out: Path) -> None:
    """A checkpoint of a sharded model, its export by all workers, and the expected content."""
    run = Run(config=FRESH, context=context, sharding=ShardingConfig(), bins=bins)
    tensors = {}
    for name, parameter in run.model.named_parameters():
        tensors |= {f"model.{name}": parameter.detach(), f"z.{name}": parameter.detach() * 3 + 1}
    save(tensors, checkpoint_id=out / "checkpoint")
    checkpoint = Checkpoint(folder=out / "checkpoint", step=1, state=state_of(0.25).as_dict())
    template = ExportTemplate.of(run.model.lm.config, base=None, dtype="auto")
    export(checkpoint, template, out / "export", context, max_file_bytes=10_000)
    expected = {
        name.removeprefix("lm."): torch.lerp(weight, weight * 3 + 1, 0.25) for name, weight in run.weights().items()
    }
    if context.rank == 0:
        torch.save(expected, out / "average.pt")
        template.write(out / "config")


def main() -> None:
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    with DistributedContext.from_torchrun() as fsdp:
        contexts = {"fsdp": fsdp, "hsdp": DistributedContext.current(replicas=2)}
        folders = {name: out / name for name in EXPERTS if name != "fresh"}
        fsdp.on_first(lambda: [write_model(folder, *EXPERTS[name]) for name, folder in folders.items()])
        fsdp.on_first(lambda: write_gemma(out / "gemma"))
        folders = {**folders, "gemma": out / "gemma"}
        configs = {name: ModelConfig(init_from=str(path), vocabulary_multiple=8) for name, path in folders.items()}
        configs["fresh"] = FRESH
        bins = make_bins(12)
        measured = {
            "equal": against_one_process(configs, contexts, bins),
            "micro_steps": micro_steps(contexts, bins),
            "largest": largest_tensors(configs, fsdp),
            "stale": stale_weights(fsdp, bins),
        }
        checkpoint_and_export(fsdp, bins, out)
        if fsdp.rank == 0:
            measured |= {"kept": kept_for_backward(bins), "compiled": compiled(bins)}
            (out / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
