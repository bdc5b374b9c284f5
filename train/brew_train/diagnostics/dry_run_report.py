"""The report of a dry run: memory, traffic and times of one GPU, compared with a real one."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from brew_train.diagnostics.memory_tracker import Memory, Traffic
from brew_train.telemetry.flops import ModelSize

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["DryRun", "Gpu"]

ASSUMED_MFU = 0.5  # without communication; Mixtral 8x22B reaches 49% in Megatron (5-D parallelism)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU to compare with. The default is an H100 SXM with a 400 Gb/s network card."""

    name: str = "an H100 80 GB"
    memory: float = 81_559 * 2**20  # bytes, from nvidia-smi
    usable: float = 0.85  # usable share of the memory; the rest is for fragmentation, NCCL's buffers and CUDA
    flops: float = 989e12  # dense bfloat16 FLOP/s
    float32_flops: float = 67e12  # FLOP/s without tensor cores
    bandwidth: float = 50e9  # bytes/s from one GPU's network card to other nodes
    per_node: int = 8  # GPUs per node, connected by NVLink, each with its own network card

    def in_precision(self, precision: str) -> "Gpu":
        """Returns the GPU with the FLOP/s of `TrainConfig.precision`."""
        return replace(self, flops=self.float32_flops) if precision == "float32" else self


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Memory, traffic and checkpoint size of rank 0; no other rank has a larger share."""

    gpus: int
    replicas: int
    tokens: int  # tokens per GPU and micro-step
    micro_steps: int
    size: ModelSize
    parameters: int  # bytes of this rank's float32 shards, with padding
    padding: int  # bytes of `parameters` that exceed an even share, because a dimension cannot be divided evenly
    gradients: int  # bytes
    optimizer: int  # bytes
    kept: int  # bytes of activations that one forward pass stores for its backward pass
    peak: Memory  # memory at the time of the largest total
    micro_step: Traffic  # traffic of a micro-step that is not the last one of its step
    step: Traffic  # traffic of a step
    checkpoint: int  # bytes that this rank writes in a checkpoint
    flops: float  # model FLOPs per GPU and micro-step
    gpu: Gpu  # the GPU to compare with

    @property
    def fits(self) -> bool:
        """Whether the peak fits into the usable memory of the GPU."""
        return self.peak.total <= self.gpu.usable * self.gpu.memory

    @property
    def send_seconds(self) -> float:
        """Seconds for the collectives of one step, if each GPU sends all bytes through its card: the worst layout."""
        return self.step.total / self.gpu.bandwidth

    @property
    def send_seconds_by_node(self) -> float:
        """Seconds for the collectives of one step, if each ring enters and leaves a node once, through one card.

        NCCL lays out its rings in this way, one per card, if the GPUs of a node are neighbours in the process group.
        That holds within a replica, but not for the all-reduce between replicas.
        """
        neighbours = min(self.gpu.per_node, self.gpus // self.replicas)
        within_replica = self.step.all_gather + self.step.reduce_scatter
        return (within_replica / neighbours + self.step.all_reduce) / self.gpu.bandwidth

    @property
    def compute_seconds(self) -> float:
        """Seconds for the model FLOPs of one step at `ASSUMED_MFU`."""
        return self.micro_steps * self.flops / (self.gpu.flops * ASSUMED_MFU)

    def mfu_ceiling(self, send_seconds: float) -> float:
        """Returns the largest possible MFU, if sending overlaps with computing at the peak of the GPU.

        Args:
            send_seconds: seconds for the collectives of one step.
        """
        at_peak = self.micro_steps * self.flops / self.gpu.flops
        return at_peak / max(send_seconds, at_peak)

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON object, in bytes, seconds and shares."""
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
        """Returns the names and the formatted values of the report."""
        limit = self.gpu.usable * self.gpu.memory
        share = self.padding / self.parameters
        padded = f", of which {share:.0%} exceeds an even share" if share >= 0.01 else ""
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
            ("sending, each GPU through its card", self._format_sending(self.send_seconds)),
            ("sending, rings through whole nodes", self._format_sending(self.send_seconds_by_node)),
            ("checkpoint", f"{_gb(self.checkpoint)} per GPU"),
        ]

    def _format_sending(self, seconds: float) -> str:
        ceiling = self.mfu_ceiling(seconds)
        limit = "no limit to MFU" if ceiling == 1 else f"MFU of at most {ceiling:.0%}"
        return f"{seconds:.1f} s at {self.gpu.bandwidth / 1e9:.0f} GB/s per card: {limit}"

    def render(self, console: "Console") -> None:
        """Prints the report as a table."""
        from rich.table import Table  # not needed by the GPU check

        table = Table(title=f"Dry run: one of {self.gpus} GPUs", title_justify="left", show_header=False)
        for name, value in self.rows():
            table.add_row(name, value)
        console.print(table)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
