"""The model: a Mixtral from scratch or any Hugging Face causal LM, wrapped so that its forward returns the loss.

Owns: building, the wrapper, and how FSDP2 shards it. Does not own: the attention function (brew_train.attention) or
the loss arithmetic (brew_train.losses).
"""

from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from brew_platform.errors import UserError
from brew_train.attention import ATTENTION, register_attention
from brew_train.batches import Batch
from brew_train.config import ModelConfig
from brew_train.losses import fused_cross_entropy
from brew_train.world import World

__all__ = ["RankingLM", "build_model", "shard"]


class RankingLM(nn.Module):
    """A causal LM whose forward is the whole training step up to the loss.

    The head is applied inside this forward because, under FSDP2, its weights exist only while the root module runs.

    Args:
        lm: a causal LM that attends with `brew_varlen`.
        router_aux_loss: weight of the load-balancing loss; 0 for models without a router.
    """

    def __init__(self, lm: PreTrainedModel, *, router_aux_loss: float = 0.0) -> None:
        super().__init__()
        self.lm = lm
        self.router_aux_loss = router_aux_loss

    def forward(self, batch: Batch, weights_T: torch.Tensor, world: World) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted loss of one packed row.

        Args:
            batch: this worker's share of the step.
            weights_T: float32, from `losses.token_weights`.
            world: for the router's statistics, which are of all workers' tokens.

        Returns:
            loss: this worker's part of the step's loss, float32 scalar, differentiable.
            losses_T: cross-entropy of each position, float32, 0 without a target; not differentiable.
            (A tuple, as FSDP2 finds the tensors to hook its backward to in tuples only.)
        """
        out = self.lm.get_decoder()(
            input_ids=batch.input_ids_1T,
            position_ids=batch.position_ids_1T,
            attention_mask=None,  # with a mask or a cache, documents of one bin would see each other
            use_cache=False,
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens,
            max_length_q=batch.max_length,
            max_length_k=batch.max_length,
            output_router_logits=self.router_aux_loss > 0,
        )
        head = self.lm.get_output_embeddings()
        total, losses_T = fused_cross_entropy(out.last_hidden_state[0], head.weight, batch.targets_T, weights_T)
        if self.router_aux_loss > 0:
            balance = balance_loss(out.router_logits, top_k=self.lm.config.num_experts_per_tok, world=world)
            total = total + self.router_aux_loss * balance
        return total, losses_T


def balance_loss(router_logits: tuple[torch.Tensor, ...], *, top_k: int, world: World) -> torch.Tensor:
    """This worker's part of the load-balancing loss, the mean over layers of E · Σ_e f_e · P_e.

    f_e is the share of the global step's assignments that go to expert e, P_e the mean probability that the router
    gives it (Switch Transformer, arXiv:2101.03961, equations 4-6). f is summed over the workers first, and P_e is
    linear in the tokens, so the workers' parts add up to the same loss whatever their number.

    Args:
        router_logits: per layer, shape [T, E].
        top_k: experts per token.

    Returns:
        float32 scalar; 1 / workers when routing is uniform.
    """
    logits_LTE = torch.stack(router_logits).float()
    layers, experts = logits_LTE.shape[0], logits_LTE.shape[2]
    probabilities_LTE = logits_LTE.softmax(dim=-1)
    chosen_LTK = probabilities_LTE.topk(top_k, dim=-1).indices
    counts_LE = torch.zeros(layers, experts, device=logits_LTE.device)
    counts_LE.scatter_add_(1, chosen_LTK.flatten(1), torch.ones_like(chosen_LTK.flatten(1), dtype=torch.float32))
    world.sum_(counts_LE)
    assignments = counts_LE[0].sum()
    share_LE = counts_LE / assignments
    return experts * (share_LE * probabilities_LTE.sum(dim=1)).sum() * top_k / (assignments * layers)


def build_model(config: ModelConfig, *, vocabulary_size: int, context_length: int, seed: int) -> RankingLM:
    """The model on the CPU in float32, the same weights in every process.

    Args:
        config: sizes, or the folder to start from.
        vocabulary_size: ids that the tokenizer can produce.
        context_length: longest document, in tokens.
        seed: of the initial weights.

    Raises:
        UserError: `init_from` is no causal LM, or has a smaller vocabulary or context than the data need.
    """
    register_attention()
    if config.init_from is not None:
        lm = _load(config.init_from, vocabulary_size=vocabulary_size, context_length=context_length)
    else:
        settings = MixtralConfig(
            vocab_size=vocabulary_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            num_local_experts=config.experts,
            num_experts_per_tok=config.experts_per_token,
            max_position_embeddings=context_length,
            initializer_range=config.initializer_range,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_embeddings,
            router_aux_loss_coef=config.router_aux_loss,
            # special tokens belong to the tokenizer, which travels beside the weights
            bos_token_id=None,
            eos_token_id=None,
            use_cache=True,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            lm = MixtralForCausalLM(settings)
    # grouped_mm: on CPU batched_mm is 60 times slower. transformers has no setter for models without experts.
    lm.set_attn_implementation(ATTENTION)
    has_router = getattr(lm.config, "num_experts_per_tok", None) is not None
    if has_router:
        lm.set_experts_implementation("grouped_mm")
    if getattr(lm.get_output_embeddings(), "bias", None) is not None:
        raise UserError(
            f"the model in {config.init_from} has a bias on its output head, which the fused loss leaves out; start "
            f"from a model without one (Mixtral, Llama and Qwen have none)."
        )
    return RankingLM(lm, router_aux_loss=config.router_aux_loss if has_router else 0.0)


def _load(folder: str, *, vocabulary_size: int, context_length: int) -> PreTrainedModel:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"model.init_from is {folder}, which has no config.json: give a folder that transformers' save_pretrained "
            f"wrote, or null to start from scratch."
        )
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if lm.config.vocab_size < vocabulary_size:
        raise UserError(
            f"the model in {folder} knows {lm.config.vocab_size} token ids, but the bins were made with "
            f"{vocabulary_size}: build the data with that model's own tokenizer."
        )
    if lm.config.max_position_embeddings < context_length:
        raise UserError(
            f"the model in {folder} reads at most {lm.config.max_position_embeddings} tokens, but the bins hold up to "
            f"{context_length}: build the data with a shorter context length."
        )
    return lm


def shard(model: RankingLM, world: World, *, reshard_after_forward: bool) -> RankingLM:
    """Moves `model` to the world's device and shards it with FSDP2, one group per decoder layer; alone it stays whole.

    Embeddings, last norm and head form the root group: the head must exist while the root's forward makes the loss.
    Shards are float32, because the optimizer's averages are useless in bfloat16; a GPU computes in bfloat16.
    """
    model.to(world.device)
    if world.mesh is None:
        return model
    policy = MixedPrecisionPolicy()
    if world.device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

    def placement(parameter: nn.Parameter) -> Shard | None:
        # Fused experts are [experts, out, in]: over dim 0 every rank beyond the number of experts would hold padding,
        # so they are cut along `out`, which FSDP2 wants to divide evenly.
        return Shard(1) if parameter.ndim == 3 and parameter.shape[1] % world.size == 0 else None

    for layer in model.lm.get_decoder().layers:
        fully_shard(
            layer,
            mesh=world.mesh,
            mp_policy=policy,
            reshard_after_forward=reshard_after_forward,
            shard_placement_fn=placement,
        )
    fully_shard(model, mesh=world.mesh, mp_policy=policy, reshard_after_forward=False, shard_placement_fn=placement)
    return model
