"""The model: a Mixtral from scratch or a Hugging Face causal LM, wrapped so that its forward returns the loss."""

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, PretrainedConfig, PreTrainedModel

from brew_platform.errors import UserError
from brew_train.config import ModelConfig, ModelShape
from brew_train.distributed.context import DistributedContext
from brew_train.inputs.batches import Batch
from brew_train.model.attention import ATTENTION, register_attention
from brew_train.model.hf_tensor_map import FAMILIES
from brew_train.objectives.base import BatchLoss

__all__ = ["RankingLM", "balance_loss", "build_model"]


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

    def forward(
        self, batch: Batch, objective: BatchLoss, context: DistributedContext
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss of one packed row.

        In training mode the router's load-balancing loss is added to it, in each of the objective's micro-steps its
        share; the other results are the objective's alone.

        Args:
            batch: this worker's share of the step, or of the micro-step.
            objective: of the stage, made for this batch.
            world: for the router's statistics, which are of all workers' tokens.

        Returns:
            loss: this worker's part of the step's loss, float32 scalar, differentiable.
            losses_T: cross-entropy of each position, float32, 0 without a target; not differentiable.
            sums_K: float64, the sums that the objective measures; not differentiable.
            (A tuple, as FSDP2 finds the tensors to hook its backward to in tuples only.)
        """
        balanced = self.training and self.router_aux_loss > 0
        out = self.lm.get_decoder()(
            input_ids=batch.input_ids_1T,
            position_ids=batch.position_ids_1T,
            attention_mask=None,  # with a mask or a cache, documents of one bin would see each other
            use_cache=False,
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens,
            max_length_q=batch.max_length,
            max_length_k=batch.max_length,
            output_router_logits=balanced,
        )
        head = self.lm.get_output_embeddings()
        loss, losses_T, sums_K = objective(out.last_hidden_state[0], head.weight, batch)
        if balanced:
            balance = balance_loss(out.router_logits, top_k=self.lm.config.num_experts_per_tok, context=context)
            loss = loss + self.router_aux_loss / objective.micro_steps * balance
        return loss, losses_T, sums_K


def balance_loss(router_logits: tuple[torch.Tensor, ...], *, top_k: int, context: DistributedContext) -> torch.Tensor:
    """This worker's part of the load-balancing loss, the mean over layers of E · Σ_e f_e · P_e.

    f_e is the share of all workers' assignments that go to expert e, P_e the mean probability that the router gives it
    (Switch Transformer, arXiv:2101.03961, equations 4-6). f is summed over the workers first, and P_e is linear in the
    tokens, so the workers' parts add up to the same loss whatever their number.

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
    context.sum_(counts_LE)
    assignments = counts_LE[0].sum()
    share_LE = counts_LE / assignments
    return experts * (share_LE * probabilities_LTE.sum(dim=1)).sum() * top_k / (assignments * layers)


def build_model(config: ModelConfig, shape: ModelShape) -> RankingLM:
    """The model on the meta device: shapes and float32 types without memory, until `weights.materialize` fills it.

    Args:
        config: sizes, or the folder to start from.
        shape: vocabulary of the tokenizer, and the longest document in tokens.

    Raises:
        UserError: `init_from` is no model that can be trained here, or has a smaller vocabulary or context than the
            data need.
    """
    register_attention()
    if config.init_from is None:
        settings = _from_scratch(config, vocabulary_size=shape.vocabulary_size, context_length=shape.context_length)
    else:
        settings = _of_folder(
            config.init_from, vocabulary_size=shape.vocabulary_size, context_length=shape.context_length
        )
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    lm.set_attn_implementation(ATTENTION)
    has_router = getattr(lm.config, "num_experts_per_tok", None) is not None
    if has_router:  # transformers has no setter for models without experts
        # On CPU batched_mm is 60 times slower. grouped_mm wants rows of 16 bytes, in bfloat16 too.
        aligned = all(size % 8 == 0 for p in lm.parameters() if p.ndim == 3 for size in p.shape[1:])
        lm.set_experts_implementation("grouped_mm" if aligned else "eager")
    if getattr(lm.get_output_embeddings(), "bias", None) is not None:
        raise UserError(
            f"the model in {config.init_from} has a bias on its output head, which the fused loss leaves out; start "
            f"from a model without one (Mixtral, Llama and Qwen have none)."
        )
    return RankingLM(lm, router_aux_loss=config.router_aux_loss if has_router else 0.0)


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
        # special tokens belong to the tokenizer, which travels beside the weights
        bos_token_id=None,
        eos_token_id=None,
        use_cache=True,
    )


def _of_folder(folder: str, *, vocabulary_size: int, context_length: int) -> PretrainedConfig:
    if not (Path(folder) / "config.json").is_file():
        raise UserError(
            f"model.init_from is {folder}, which has no config.json: give a folder that transformers' save_pretrained "
            f"wrote, or null to start from scratch."
        )
    try:
        settings = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the config.json in {folder} cannot be read ({str(error).splitlines()[0]}): copy the model again, or "
            f"start from another one."
        ) from error
    if settings.model_type not in FAMILIES:
        raise UserError(
            f"the model in {folder} is a {settings.model_type}, whose weights and attention are not known here: start "
            f"from one of {', '.join(FAMILIES)}."
        )
    if settings.vocab_size < vocabulary_size:
        raise UserError(
            f"the model in {folder} knows {settings.vocab_size} token ids, but the bins were made with "
            f"{vocabulary_size}: build the data with that model's own tokenizer."
        )
    if settings.max_position_embeddings < context_length:
        raise UserError(
            f"the model in {folder} reads at most {settings.max_position_embeddings} tokens, but the bins hold up to "
            f"{context_length}: build the data with a shorter context length."
        )
    window = getattr(settings, "sliding_window", None)
    if window and window < context_length:
        raise UserError(
            f"the model in {folder} attends to the last {window} tokens only (sliding_window), but the bins hold "
            f"documents of up to {context_length}, and training attends to all of a document: build the data with a "
            f"context length of at most {window}, or start from a model without a window."
        )
    return settings
