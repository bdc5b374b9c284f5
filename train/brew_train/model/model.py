"""The model: a Mixtral from scratch or a Hugging Face causal LM, wrapped so that its forward returns the loss."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, PreTrainedModel

from brew_platform.errors import UserError
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch
from brew_train.model.attention import ATTENTION, register_attention
from brew_train.model.base_model import read_base_config
from brew_train.objectives.base import BatchLoss

__all__ = ["RankingLM", "balance_loss", "build_model"]


class RankingLM(nn.Module):
    """A causal LM whose forward pass returns the loss.

    The forward pass includes the head, because FSDP2 gathers the weights of the head only while the root module runs.

    Args:
        lm: a causal LM with the attention `brew_varlen`.
        router_aux_loss: weight of the load-balancing loss; 0 for models without a router.
        control_ids: tokens with a role in a chat.
    """

    def __init__(self, lm: PreTrainedModel, *, router_aux_loss: float = 0.0, control_ids: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.lm = lm
        self.router_aux_loss = router_aux_loss
        self.control_ids = control_ids

    def forward(
        self, batch: Batch, objective: BatchLoss, context: DistributedContext
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Computes the loss of one packed row.

        In training mode `loss` includes the load-balancing loss of the router, divided by the number of micro-steps.
        The other results do not include it. FSDP2 requires a tuple to find the tensors that it attaches hooks to.

        Args:
            batch: this worker's share of the step, or of the micro-step.
            objective: the loss of the stage, bound to this batch.
            context: the workers; the router's statistics are computed over all of their tokens.

        Returns:
            loss: float32 scalar, this worker's part of the loss of the step; differentiable.
            losses_T: float32, cross-entropy of each position, 0 without a target; not differentiable.
            sums_K: float64, the loss and the sum of each measure of the objective; not differentiable.
        """
        balanced = self.training and self.router_aux_loss > 0
        out = self.lm.get_decoder()(
            input_ids=batch.input_ids_1T,
            position_ids=batch.position_ids_1T,
            attention_mask=None,  # with a mask or a cache, a token would attend to other segments of the bin
            use_cache=False,
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens_k,
            max_length_q=batch.max_length,
            max_length_k=batch.max_length_k,
            key_places=batch.key_places_K,
            output_router_logits=balanced,
        )
        head = self.lm.get_output_embeddings()
        loss, losses_T, sums_K = objective(out.last_hidden_state[0], head.weight, batch)
        if balanced:
            balance = balance_loss(out.router_logits, top_k=self.lm.config.num_experts_per_tok, context=context)
            loss = loss + self.router_aux_loss / objective.micro_steps * balance
        return loss, losses_T, sums_K


def balance_loss(router_logits: tuple[torch.Tensor, ...], *, top_k: int, context: DistributedContext) -> torch.Tensor:
    """Computes this worker's part of the load-balancing loss, the mean over layers of E · Σ_e f_e · P_e.

    f_e is the share of all workers' assignments that go to expert e, P_e the mean router probability of expert e
    (Switch Transformer, arXiv:2101.03961, equations 4-6). f_e is summed over the workers first, and P_e is linear in
    the tokens. So the parts of all workers add up to the same loss for any number of workers.
    Legend: L layers, T tokens, E experts, K experts per token.

    Args:
        router_logits: for each layer a tensor of shape [T, E].
        top_k: K.
        context: the workers.

    Returns:
        float32 scalar; 1 / workers if the routing is uniform.
    """
    logits_LTE = torch.stack(router_logits).float()
    layers, experts = logits_LTE.shape[0], logits_LTE.shape[2]
    probabilities_LTE = logits_LTE.softmax(dim=-1)
    chosen_LTK = probabilities_LTE.topk(top_k, dim=-1).indices
    counts_LE = torch.zeros(layers, experts, device=logits_LTE.device)
    counts_LE.scatter_add_(1, chosen_LTK.flatten(1), torch.ones_like(chosen_LTK.flatten(1), dtype=torch.float32))
    context.sum_(counts_LE)
    assignments = counts_LE[0].sum()
    share_LE = counts_LE / assignments
    return experts * (share_LE * probabilities_LTE.sum(dim=1)).sum() * top_k / (assignments * layers)


def build_model(config: ModelConfig, shape: ModelShape) -> RankingLM:
    """Returns the model on the meta device, in float32; `init_weights.materialize` allocates and fills its weights.

    Args:
        config: sizes, or the folder to start from.
        shape: size of the vocabulary, and context length in tokens.

    Raises:
        UserError: the model in `init_from` is not supported, its vocabulary or context is smaller than `shape`, or
            frozen embeddings would lack the data's tokens.
    """
    register_attention()
    if config.init_from is None:
        settings = _from_scratch(config, vocabulary_size=shape.vocabulary_size, context_length=shape.context_length)
    else:
        settings = read_base_config(Path(config.init_from), shape, vocabulary_multiple=config.vocabulary_multiple)
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    if not config.train_embeddings:
        _freeze_embeddings(lm, config, shape)
    lm.set_attn_implementation(ATTENTION)
    has_router = getattr(lm.config, "num_experts_per_tok", None) is not None
    if has_router:  # transformers has no setter for models without experts
        # On CPU batched_mm is 60 times slower. grouped_mm requires rows of a multiple of 16 bytes, also in bfloat16.
        aligned = all(size % 8 == 0 for p in lm.parameters() if p.ndim == 3 for size in p.shape[1:])
        lm.set_experts_implementation("grouped_mm" if aligned else "eager")
    router_aux_loss = config.router_aux_loss if has_router else 0.0
    return RankingLM(lm, router_aux_loss=router_aux_loss, control_ids=shape.control_ids)


def _freeze_embeddings(lm: PreTrainedModel, config: ModelConfig, shape: ModelShape) -> None:
    assert config.init_from is not None  # ModelConfig requires it
    trained = AutoConfig.from_pretrained(config.init_from, local_files_only=True).vocab_size
    if shape.vocabulary_size > trained:
        raise UserError(
            f"model.train_embeddings=false, but the data have {shape.vocabulary_size} tokens and the model in "
            f"{config.init_from} has {trained}: the embeddings of the new tokens must be trained. Set it to true, or "
            f"use a tokenizer without new tokens."
        )
    for module in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        module.requires_grad_(False)


def _from_scratch(config: ModelConfig, *, vocabulary_size: int, context_length: int) -> MixtralConfig:
    return MixtralConfig(
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
        # special tokens are defined by the tokenizer, which is exported beside the weights
        bos_token_id=None,
        eos_token_id=None,
        use_cache=True,
    )
