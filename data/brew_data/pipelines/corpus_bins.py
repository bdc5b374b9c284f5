"""Builds a corpus: bins with documents of several sources, mixed within a budget of tokens.

1. Per part of a source (a shard of the tables, or a file): compile its documents, and write them with their lengths and
   ranks (`brew_data.pipelines.corpus_documents`).
2. For sources with `toward`: count the n-grams of documents, and write the importance of each.
3. In this process: read lengths and ranks, and decide how often each document is used (`brew_data.mixing.mix`). Of each
   stratum this is a number of repeats and a rank up to which documents are used once more.
4. Pack the chosen documents of the parts (`brew_data.pipelines.shard_packing`).

A part that is finished has a file in `sources/` that says so. A build that was killed continues after the last of them.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brew_data.corpora.config import CorpusConfig
from brew_data.corpora.document_sources import TableRows, open_source
from brew_data.mixing.mix import Candidates, Quota, SourceShare, copies, plan_mix
from brew_data.mixing.mix_file import write_mix
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.packed_bins.schema import BINS_PER_FILE
from brew_data.pipelines.corpus_documents import (
    CorpusBuild,
    compile_parts,
    count_quarantined,
    open_work,
    read_ranks,
    require_share,
)
from brew_data.pipelines.member_groups import compiler_spec, load_compiler
from brew_data.pipelines.shard_packing import pack_shards
from brew_data.prompts.compiler import PromptCompiler
from brew_platform.errors import UserError
from brew_platform.provenance import source_commit

__all__ = ["SOURCES", "CompiledCorpus", "build_corpus", "compile_corpus"]

SOURCES = "sources"  # folder in the folder of the bins, while they are built
NOTHING = Quota(repeats=0, last_rank=-math.inf)


def build_corpus(
    config: CorpusConfig,
    rows: TableRows,
    compiler: PromptCompiler,
    out: Path,
    *,
    quarantine: Path | None = None,
    max_share: float = 1.0,
    bins_per_file: int = BINS_PER_FILE,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BinsPlan:
    """Compile the documents of the sources of a corpus, choose from them, and write the bins.

    With Ray, parts are processed by the cluster; its nodes must see all folders. Without Ray, in this process. The
    result is the same, byte for byte.

    Args:
        config: The sources and the mix.
        rows: The rows of the tables that are read.
        compiler: Compiles the documents; its context length is the capacity of a bin, in tokens.
        out: The folder for `bins-*.parquet`, `mix.json` and `plan.json`, which is written last. A build of the same
            corpus that did not finish there is continued; anything else is replaced.
        quarantine: The folder for rows of conversations that cannot be read, in a folder per part; None: they are only
            counted.
        max_share: The largest share of the rows of a source that the quarantine may have. Conversations whose first
            turn exceeds the context do not count.
        bins_per_file: The number of bins per Parquet file.
        on_progress: As for `pack_shards`.

    Returns:
        The contents of `plan.json`.

    Raises:
        UserError: A source has no documents, or too few for the mix; or its files do not exist.
        DataError: The tables or files are missing or damaged, or too many rows cannot be read.
    """
    out = out.absolute()
    (out / PLAN_FILE).unlink(missing_ok=True)  # first: the folder is not complete from here on
    compiled = compile_corpus(
        config,
        rows,
        compiler,
        out / SOURCES,
        quarantine=None if quarantine is None else quarantine.absolute() / out.name,
        max_share=max_share,
    )
    plan = compiled.pack_mix(config, out, bins_per_file=bins_per_file, on_progress=on_progress)
    shutil.rmtree(out / SOURCES)
    return plan


def compile_corpus(
    config: CorpusConfig,
    rows: TableRows,
    compiler: PromptCompiler,
    work: Path,
    *,
    quarantine: Path | None = None,
    max_share: float = 1.0,
) -> "CompiledCorpus":
    """Compile the documents of the sources of a corpus, so that bins of any mix of them can be packed.

    Args:
        config: The sources. Weights, tokens and repeats are not used.
        rows: The rows of the tables that are read.
        compiler: Compiles the documents.
        work: The folder for the documents. What an earlier call with equal documents finished there is kept.
        quarantine: The folder for rows of conversations that cannot be read, in a folder per part; None: they are only
            counted.
        max_share: As for `build_corpus`.

    Raises:
        UserError: The files of a source do not exist.
        DataError: The tables or files are missing or damaged, or too many rows cannot be read.
    """
    rows = replace(rows, folder=rows.folder.absolute())
    sources = {name: open_source(config.sources[name], rows) for name in sorted(config.sources)}
    spec = compiler_spec(compiler)
    build = CorpusBuild(
        spec=spec,
        sources=sources,
        parts=[(name, part) for name, source in sources.items() for part in source.parts()],
        toward={name: source.toward for name, source in config.sources.items() if source.toward is not None},
        seed=config.seed,
        work=work.absolute(),
        quarantine=quarantine,
    )
    identity = json.dumps(
        {
            "commit": source_commit(),
            "prompts": spec.digest,
            "toward": build.toward,
            "seed": config.seed,
            "sources": {name: source.identity() for name, source in sources.items()},
        },
        sort_keys=True,
    )
    open_work(build, identity)
    for source in sources.values():
        source.prepare(build.work, compiler)
    compile_parts(build)
    for name in sources:
        require_share(build, name, max_share)
    return CompiledCorpus(build, identity)


class CompiledCorpus:
    """The compiled documents of a corpus, from which bins are packed. It can be sent to other processes.

    Args:
        build: Where the documents are.
        identity: Everything that they depend on.
    """

    def __init__(self, build: CorpusBuild, identity: str) -> None:
        self._build, self._identity = build, identity

    def candidates(self) -> dict[str, Candidates]:
        """Read the lengths, ranks and strata of the documents of each source."""
        return {name: _candidates(self._build, name) for name in self._build.sources}

    def pack_mix(
        self,
        config: CorpusConfig,
        out: Path,
        *,
        bins_per_file: int = BINS_PER_FILE,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> BinsPlan:
        """Choose documents as the weights and tokens of a corpus say, and write bins and `mix.json`.

        Args:
            config: The corpus; its sources are those that were compiled.
            out: As for `build_corpus`.
            bins_per_file: As for `build_corpus`.
            on_progress: As for `build_corpus`.

        Raises:
            UserError: A source has no documents, or too few for the mix; or the tokens are too few for any document.
        """
        candidates = self.candidates()
        shares = {
            name: SourceShare(weight=source.weight, strata_power=source.strata_power)
            for name, source in config.sources.items()
        }
        quotas = plan_mix(candidates, shares, tokens=config.tokens, most_repeats=config.most_repeats)
        out.mkdir(parents=True, exist_ok=True)
        write_mix(_outcome(config, self._build, candidates, quotas), out)
        plan = self.pack(quotas, out, bins_per_file=bins_per_file, on_progress=on_progress)
        if plan is None:
            raise UserError(
                f"the {config.tokens} tokens of the corpus {out.name} are fewer than those of its first document. "
                f"Raise tokens."
            )
        return plan

    def pack(
        self,
        quotas: Mapping[str, Mapping[str, Quota]],
        out: Path,
        *,
        bins_per_file: int = BINS_PER_FILE,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> BinsPlan | None:
        """Write bins with the documents of some strata.

        Args:
            quotas: By source and stratum: how often documents are used. Others are left out.
            out: As for `build_corpus`.
            bins_per_file: As for `build_corpus`.
            on_progress: As for `build_corpus`.

        Returns:
            The contents of `plan.json`; None if no document is used, and then there is none.
        """
        chosen = _Chosen(build=self._build, quotas=quotas, identity_text=self._identity)
        return pack_shards(
            chosen,
            [index for index, (name, _) in enumerate(self._build.parts) if name in quotas],
            load_compiler(self._build.spec),
            out,
            bins_per_file=bins_per_file,
            on_progress=on_progress,
        )


class _Chosen(NamedTuple):
    """The documents of each part, as often as they are used."""

    build: CorpusBuild
    quotas: Mapping[str, Mapping[str, Quota]]
    identity_text: str

    def documents(self, shard: int) -> pa.Table:
        quotas = self.quotas[self.build.parts[shard][0]]
        table = pq.read_table(self.build.documents(shard))
        stratum_D = pc.index_in(table["stratum"], value_set=pa.array(list(quotas), pa.string()))
        stratum_D = stratum_D.fill_null(len(quotas)).to_numpy()
        copies_D = copies(read_ranks(self.build, shard, table), stratum_D, [*quotas.values(), NOTHING])
        chosen = pa.array(np.repeat(np.arange(len(copies_D)), copies_D))
        return table.drop_columns(["stratum", "rank"]).take(chosen)

    def identity(self) -> dict[str, Any]:
        quotas = {
            name: {stratum: [quota.repeats, quota.last_rank] for stratum, quota in strata.items()}
            for name, strata in self.quotas.items()
        }
        return {"corpus": self.identity_text, "quotas": quotas}


def _candidates(build: CorpusBuild, source: str) -> Candidates:
    """Read the lengths, ranks and strata of the documents of a source."""
    tables = {
        index: pq.read_table(build.documents(index), columns=["length", "stratum", "rank"])
        for index in build.indexes(source)
    }
    rank_D = np.concatenate([np.zeros(0), *(read_ranks(build, index, table) for index, table in tables.items())])
    rows = pa.concat_tables(tables.values())
    strata = pc.unique(rows["stratum"]).sort()
    return Candidates(
        length_D=rows["length"].to_numpy(),
        rank_D=rank_D,
        stratum_D=pc.index_in(rows["stratum"], value_set=strata).to_numpy(),
        strata=strata.to_pylist(),
    )


def _outcome(
    config: CorpusConfig,
    build: CorpusBuild,
    candidates: Mapping[str, Candidates],
    quotas: Mapping[str, Mapping[str, Quota]],
) -> dict[str, Any]:
    """Return what `write_mix` writes."""
    sources: dict[str, dict[str, Any]] = {}
    for name, found in candidates.items():
        copies_D = copies(found.rank_D, found.stratum_D, list(quotas[name].values()))
        used_D = copies_D * found.length_D
        strata = {
            stratum: {
                "tokens_available": int(found.length_D[found.stratum_D == place].sum()),
                "tokens": int(used_D[found.stratum_D == place].sum()),
            }
            for place, stratum in enumerate(found.strata)
        }
        sources[name] = {
            "kind": config.sources[name].kind,
            "weight": config.sources[name].weight,
            "documents_available": len(copies_D),
            "tokens_available": found.tokens,
            "documents": int(copies_D.sum()),
            "tokens": int(used_D.sum()),
            "repeats": round(float(used_D.sum() / found.tokens), 4),
            "strata": {stratum: strata[stratum] for stratum in sorted(strata)} if len(strata) > 1 else {},
        }
    total = sum(source["tokens"] for source in sources.values())
    for source in sources.values():
        source["share"] = round(source["tokens"] / total, 6) if total else 0.0
    return {
        "tokens": total,
        "budget": config.tokens,
        "seed": config.seed,
        "sources": sources,
        "quarantined": {name: reasons for name in sources if (reasons := count_quarantined(build, name))},
    }
