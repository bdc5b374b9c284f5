"""The report of a dry run: memory, traffic and times of one GPU, compared with an H100."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from brew_train.diagnostics.memory_tracker import Memory, Traffic
from brew_train.telemetry.flops import ModelSize

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DryRun", "Gpu"]

ASSUMED_MFU = 0.5  # of the time that computing alone would take; Mixtral 8x22B reached 49% in Megatron (5-D parallel)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The machine that figures are compared with: an H100 SXM with one 400 Gb/s network card each."""

    name: str = "an H100 80 GB"
    memory: float = 81_559 * 2**20  # bytes, as nvidia-smi says
    usable: float = 0.85  # share of it; fragments, NCCL's buffers and CUDA's own take the rest
    flops: float = 989e12  # dense bf16 FLOP/s
    bandwidth: float = 50e9  # bytes/s that one GPU's network card sends to other nodes
    per_node: int = 8  # GPUs joined by NVLink, each with a card of its own


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What one rank of a run would hold, send and write. Rank 0 speaks for all: none has a larger share."""

    gpus: int
    replicas: int
    tokens: int  # per GPU and micro-step
    micro_steps: int
    size: ModelSize
    parameters: int  # bytes of this rank's float32 shards, with padding
    padding: int  # those of them beyond an even share: a dimension that parts do not divide is cut into too large ones
    gradients: int  # bytes
    optimizer: int  # bytes
    kept: int  # bytes of activations that one forward pass leaves for its backward pass
    peak: Memory  # at the moment when most is alive
    micro_step: Traffic  # of a micro-step that is not the last one of its step
    step: Traffic
    checkpoint: int  # bytes that this rank adds to a checkpoint
    flops: float  # model FLOPs per GPU and micro-step
    gpu: Gpu

    @property
    def fits(self) -> bool:
        return self.peak.total <= self.gpu.usable * self.gpu.memory

    @property
    def send_seconds(self) -> float:
        """Of one step's collectives, if every byte that a GPU sends leaves by its own card: the worst layout."""
        return self.step.total / self.gpu.bandwidth

    @property
    def send_seconds_by_node(self) -> float:
        """Of one step's collectives, if rings enter and leave each node once, one of `per_node` by each card.

        So NCCL lays them where a node's GPUs are neighbours in the group: those of one replica are, replicas are not.
        """
        together = min(self.gpu.per_node, self.gpus // self.replicas)
        inside = self.step.all_gather + self.step.reduce_scatter
        return (inside / together + self.step.all_reduce) / self.gpu.bandwidth

    @property
    def compute_seconds(self) -> float:
        """Of one step's model FLOPs, at `ASSUMED_MFU`."""
        return self.micro_steps * self.flops / (self.gpu.flops * ASSUMED_MFU)

    def mfu_ceiling(self, send_seconds: float) -> float:
        """The MFU that sending for so long allows, if it is hidden behind computing at the GPU's full peak."""
        at_peak = self.micro_steps * self.flops / self.gpu.flops
        return at_peak / max(send_seconds, at_peak)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bytes, seconds, and shares."""
        return {
            **asdict(self),
            "peak_total": self.peak.total,
            "fits": self.fits,
            "compute_seconds": self.compute_seconds,
            "send_seconds": self.send_seconds,
            "send_seconds_by_node": self.send_seconds_by_node,
            "mfu_ceiling": self.mfu_ceiling(self.send_seconds),
            "mfu_ceiling_by_node": self.mfu_ceiling(self.send_seconds_by_node),
        }

    def rows(self) -> list[tuple[str, str]]:
        """What is printed: name and figure."""
        limit = self.gpu.usable * self.gpu.memory
        share = self.padding / self.parameters
        padded = f", {share:.0%} of it more than an even share" if share >= 0.01 else ""
        return [
            ("model", f"{self.size.total / 1e9:.1f}B parameters, {self.size.active / 1e9:.1f}B active per token"),
            ("GPUs", f"{self.gpus} = {self.replicas} x {self.gpus // self.replicas} (replicas x shards)"),
            ("tokens per GPU", f"{self.tokens:,} x {self.micro_steps} micro-steps"),
            ("parameters, float32 shards", _gb(self.parameters) + padded),
            ("gradients, float32 shards", _gb(self.gradients)),
            ("optimizer, float32 shards", _gb(self.optimizer)),
            ("activations kept for backward", _gb(self.kept)),
            ("at the peak: weights gathered", _gb(self.peak.gathered)),
            ("at the peak: gradients in reduction", _gb(self.peak.reduced)),
            ("at the peak: activations, temporary", _gb(self.peak.activations)),
            (
                "peak",
                f"{_gb(self.peak.total)}: {'fits' if self.fits else 'DOES NOT FIT'} {self.gpu.usable:.0%} of "
                f"{self.gpu.name} ({_gb(limit)})",
            ),
            ("sent per micro-step", _gb(self.micro_step.total)),
            (
                "sent per step",
                f"{_gb(self.step.total)} (all-gather {_gb(self.step.all_gather)}, reduce-scatter "
                f"{_gb(self.step.reduce_scatter)}, all-reduce {_gb(self.step.all_reduce)})",
            ),
            ("computing a step", f"{self.compute_seconds:.1f} s at {ASSUMED_MFU:.0%} MFU"),
            ("sending, each GPU by its own card", self._sending(self.send_seconds)),
            ("sending, rings through whole nodes", self._sending(self.send_seconds_by_node)),
            ("checkpoint", f"{_gb(self.checkpoint)} per GPU"),
        ]

    def _sending(self, seconds: float) -> str:
        ceiling = self.mfu_ceiling(seconds)
        limit = "no limit to MFU" if ceiling == 1 else f"MFU of at most {ceiling:.0%}"
        return f"{seconds:.1f} s at {self.gpu.bandwidth / 1e9:.0f} GB/s per card: {limit}"

    def render(self, console: "Console") -> None:
        """Prints the figures as a table."""
        from rich.table import Table  # only who prints needs it

        table = Table(title=f"Dry run: one of {self.gpus} GPUs", title_justify="left", show_header=False)
        for name, figure in self.rows():
            table.add_row(name, figure)
        console.print(table)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
