"""Shows documents and prompts token by token: their parts, the tokens that carry loss, what was cut, and why a turn is
shown. For `brew360 data inspect`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from brew_cluster.jobs.dataset_card import read_card
from brew_cluster.jobs.dataset_check import EVALUATION_MEMBERS
from brew_cluster.jobs.member_rows import read_member
from brew_data.data_folder import DataFolder
from brew_data.packed_bins.packed_documents import PackedDocument, find_document, read_bin
from brew_data.packed_bins.plan import PLAN_FILE, BinsPlan
from brew_data.pipelines.documents import member_documents
from brew_data.prompts.budget import NOTHING_CUT, Cut
from brew_data.prompts.compiler import Document, PastInteraction, PromptCompiler
from brew_data.prompts.history import HistoryPolicy
from brew_data.prompts.history_policies import HistorySelector
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.tasks import Surface, TaskSpec
from brew_data.prompts.tokenizer import Tokenizer
from brew_data.prompts.variation import VariationConfig
from brew_data.schema import iso_time, micros
from brew_data.segments import Segment
from brew_data.split import is_in_part
from brew_platform.config import load_config
from brew_platform.errors import UserError

__all__ = ["Inspection", "Part", "Token", "TurnOrigin", "inspect_bin", "inspect_document", "inspect_member"]


@dataclass(frozen=True, kw_only=True)
class Token:
    """One token.

    Args:
        id: Of the tokenizer.
        text: What the token stands for; bytes that are not whole characters are written as `\\xe4`.
        is_control: Whether it marks a part of the chat.
        has_loss: Whether training predicts it.
    """

    id: int
    text: str
    is_control: bool
    has_loss: bool


@dataclass(frozen=True, kw_only=True)
class TurnOrigin:
    """The interaction that a turn shows.

    Args:
        surface: Where the entity was shown.
        entity_type: The type of the entity.
        action: What the member did.
        time: ISO 8601, UTC.
        reason: Why the prompt shows the turn.
    """

    surface: str
    entity_type: str
    action: str
    time: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """The tokens from one control token of a chat to the next part.

    Args:
        name: instruction, profile, turn 1 (question and answer), turn 2 and so on, candidate 1 and so on of a slate, or
            text outside of a chat.
        tokens: At least one.
        origin: Of a turn; None where it is not known.
        cut: What the part lost.
        full_text: The text without any budget, if something was cut.
        prefix: Of a candidate of a slate: the number of first tokens of the document that it attends to beside itself.
    """

    name: str
    tokens: list[Token]
    origin: TurnOrigin | None = None
    cut: Cut = NOTHING_CUT
    full_text: str = ""
    prefix: int | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """One document or prompt.

    Args:
        title: Which one.
        context_length: The most tokens that it can have.
        parts: In order.
        cut: What all parts lost, where it is not known by part.
        left_out: The number of interactions that it does not show, by reason.
    """

    title: str
    context_length: int
    parts: list[Part]
    cut: Cut = NOTHING_CUT
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return sum(len(part.tokens) for part in self.parts)

    @property
    def loss_tokens(self) -> int:
        """The number of tokens that carry loss."""
        return sum(token.has_loss for part in self.parts for token in part.tokens)


def inspect_bin(data: DataFolder, name: str, bin_id: int) -> list[Inspection]:
    """Show the documents of a bin.

    Args:
        data: The data.
        name: The folder of bins in it, e.g. bins or evaluation.
        bin_id: From 0 on.

    Raises:
        UserError: There is no such folder or bin.
        DataError: The data are damaged.
    """
    folder, plan = _bins(data, name)
    tokenizer = data.bundle().tokenizer
    return [_packed(tokenizer, name, plan, document) for document in read_bin(folder, plan, bin_id)]


def inspect_document(data: DataFolder, name: str, number: int) -> Inspection:
    """Show one document of a folder of bins.

    Args:
        data: The data.
        name: The folder of bins in it, e.g. bins or evaluation.
        number: From 0 on, in the order of the bins.

    Raises:
        UserError: There is no such folder or document.
        DataError: The data are damaged.
    """
    folder, plan = _bins(data, name)
    return _packed(data.bundle().tokenizer, name, plan, find_document(folder, plan, number))


def inspect_member(
    data: DataFolder,
    member_id: str,
    *,
    task: str | None = None,
    interaction_id: int | None = None,
    policy: Sequence[str] = (),
) -> list[Inspection]:
    """Show what training or serving reads of a member.

    Args:
        data: The data.
        member_id: The member.
        task: None: the training documents. Otherwise the prompt that serving builds for one interaction, with the
            answer.
        interaction_id: The interaction that the task predicts; None: the newest on the task's surface.
        policy: `key=value` settings that change the history policy of the task, as serving can.

    Raises:
        UserError: The member, the task or the interaction is unknown, the member opted out, a setting of the policy is
            invalid, or there is nothing to show.
        DataError: The data are damaged.
    """
    bundle = data.bundle()
    profile, rows, records = read_member(data, member_id)
    if task is not None:
        spec = bundle.suite.task(task)
        changed = load_config(HistoryPolicy, asdict(spec.history), overrides=policy, key="policy")
        compiler = bundle.compiler({task: changed})
        history = records.history(rows)  # in the order of the rows
        ids = rows["interaction_id"].to_pylist()
        index = _scored(history, ids, member_id, spec, interaction_id)
        title = f"prompt of task {task} for interaction {ids[index]} of member {member_id}"
        return [_prompt(compiler, spec, profile, history, history[index], title=title)]
    compiler = bundle.compiler()
    training_rows = rows.filter(pc.less_equal(micros(rows), data.info.split.train_until))
    config = read_card(data.folder)["config"]
    variation = load_config(VariationConfig, config["variation"])
    if (data.folder / "evaluation").is_dir() and is_in_part(member_id, EVALUATION_MEMBERS):
        variation = VariationConfig(share=0.0)  # evaluation reads the first forms
    history = records.history(training_rows)
    slates = config.get("slates", False)
    documents = list(member_documents(compiler, member_id, profile, history, variation=variation, slates=slates))
    if not documents:
        raise UserError(
            f"member {member_id} has no training documents in {data.folder}: none of the interactions is on a trained "
            f"surface and before the cut. Pass --task to see a prompt."
        )
    return [
        _training_document(compiler, document, title=f"training document {n} of {len(documents)} of member {member_id}")
        for n, document in enumerate(documents, start=1)
    ]


def _bins(data: DataFolder, name: str) -> tuple[Path, BinsPlan]:
    folders = sorted(path.parent.name for path in data.folder.glob(f"*/{PLAN_FILE}"))
    if name not in folders:
        raise UserError(f"{data.folder} has no bins {name!r}. Give one of: {', '.join(folders) or 'none'}.")
    folder = data.folder / name
    plan = BinsPlan.load(folder)
    plan.check_files(folder)
    return folder, plan


def _packed(tokenizer: Tokenizer, name: str, plan: BinsPlan, document: PackedDocument) -> Inspection:
    answer = f", the {'rejected' if document.slot % 2 else 'chosen'} answer" if plan.kind == "pairs" else ""
    return Inspection(
        title=f"document {document.slot} of bin {document.bin_id} of {name}{answer}",
        context_length=plan.context_length,
        parts=_parts(tokenizer, document.ids.tolist(), document.roles.tolist(), document.segments),
    )


def _scored(
    history: Sequence[PastInteraction], ids: Sequence[int], member_id: str, task: TaskSpec, interaction_id: int | None
) -> int:
    """Return the index of the interaction that the task predicts."""
    for index in reversed(range(len(history))):
        if history[index].surface == task.surface and interaction_id in (None, ids[index]):
            return index
    which = "no interaction" if interaction_id is None else f"no interaction {interaction_id}"
    raise UserError(
        f"member {member_id!r} has {which} on surface {task.surface!r}, which task {task.name} predicts. Give another "
        f"member{'' if interaction_id is None else ' or interaction'}, or another task."
    )


def _training_document(compiler: PromptCompiler, document: Document, *, title: str) -> Inspection:
    task = compiler.suite.task(document.task)
    parts = _parts(compiler.tokenizer, document.ids, document.roles, document.segments)
    first = len(parts) - len(document.turns)  # each turn and candidate is a part
    candidates = max(1, len(document.segments) - 1)
    for number, past in enumerate(document.turns):
        if not task.trains_on_examples:
            reason = f"whole history, task {task.name}"
        elif number < len(document.turns) - candidates:
            reason = f"{compiler.policy(task).name}, task {task.name}"
        else:
            reason = f"the candidate of task {task.name}"
        parts[first + number] = replace(parts[first + number], origin=_origin(past, reason))
    dropped = {"over the token budget or max_interactions": document.turns_dropped}
    return Inspection(
        title=title,
        context_length=compiler.format.context_length,
        parts=parts,
        cut=document.cut,
        left_out={reason: count for reason, count in dropped.items() if count},
    )


def _prompt(
    compiler: PromptCompiler,
    task: TaskSpec,
    profile: Mapping[str, object],
    history: Sequence[PastInteraction],
    scored: PastInteraction,
    *,
    title: str,
) -> Inspection:
    """Show the prompt that serving builds for an interaction, with the answer."""
    prompts, policy, suite = compiler.member(profile, history), compiler.policy(task), compiler.suite
    document = compiler.example(task, profile, history, scored)
    [prefix] = prompts.prefixes(task, [scored.entity], before=scored.timestamp)
    ranked = HistorySelector(policy, suite, history).ranked(scored.timestamp, scored.entity)
    parts = {part.name: part for part in _parts(compiler.tokenizer, document.ids, document.roles)}

    def annotate(name: str, cut: Cut, full_text: str, past: PastInteraction | None = None, reason: str = "") -> None:
        origin = None if past is None else _origin(past, reason)
        parts[name] = replace(parts[name], origin=origin, cut=cut, full_text=full_text if cut else "")

    def question_text(source: TaskSpec | Surface, past: PastInteraction) -> str:
        return suite.question_text(source, profile, past.entity.entity_type, past.entity.fields)

    annotate("profile", prefix.head_cut, suite.profile_text(profile))
    for number, (index, turn) in enumerate(zip(prefix.shown, prompts.turns(task, prefix.shown), strict=True), start=1):
        past = history[index]
        reason = f"{policy.name}, choice {ranked.index(index) + 1}"
        annotate(f"turn {number}", turn.cut, question_text(suite.surface(past.surface), past), past, reason)
    _, cut = compiler.question(task, profile, scored.entity)
    annotate(f"turn {len(prefix.shown) + 1}", cut, question_text(task, scored), scored, "the candidate")
    return Inspection(
        title=title,
        context_length=compiler.format.context_length,
        parts=list(parts.values()),
        left_out=_left_out(policy, suite, history, scored.timestamp, shown=len(prefix.shown)),
    )


def _left_out(
    policy: HistoryPolicy, suite: TaskSuite, history: Sequence[PastInteraction], before: int, *, shown: int
) -> dict[str, int]:
    """Count the interactions that a prompt does not show, by reason. The options of the policy apply one by one."""
    left = sum(past.timestamp < before for past in history)
    counts = {"not earlier than the candidate": len(history) - left - 1}
    applied = replace(policy, name="chronological", positives_only=False, keep={}, deduplicate=False)
    steps: list[tuple[str, dict[str, Any]]] = [
        ("on a surface that the policy does not show", {}),
        ("not a positive action (positives_only)", {"positives_only": policy.positives_only}),
        ("not in the share of the action that is kept (keep)", {"keep": policy.keep}),
        ("its entity is shown by another interaction (deduplicate)", {"deduplicate": policy.deduplicate}),
    ]
    for reason, option in steps:
        applied = replace(applied, **option)
        visible = len(HistorySelector(applied, suite, history).visible(before))
        counts[reason], left = left - visible, visible
    counts["over the token budget or max_interactions"] = left - shown
    return {reason: count for reason, count in counts.items() if count}


def _origin(past: PastInteraction, reason: str) -> TurnOrigin:
    return TurnOrigin(
        surface=past.surface,
        entity_type=past.entity.entity_type,
        action=past.action,
        time=iso_time(past.timestamp),
        reason=reason,
    )


def _parts(
    tokenizer: Tokenizer, ids: Iterable[int], roles: Iterable[int], segments: Sequence[Segment] = ()
) -> list[Part]:
    """Divide a document at the control tokens that start an instruction, a profile or a question."""
    starts = {tokenizer.system: "instruction", tokenizer.member: "profile", tokenizer.user: "turn"}
    ends = accumulate(segment.tokens for segment in segments)
    prefixes = {start: segment.prefix for start, segment in zip(ends, segments[1:], strict=False)}  # of candidates
    parts = [Part(name="text", tokens=[])]
    numbers: Counter[str] = Counter()
    for place, (id_, role) in enumerate(zip(ids, roles, strict=True)):
        if (name := starts.get(id_)) is not None:
            if name == "turn":
                name = "candidate" if place in prefixes else name
                numbers[name] += 1
                name = f"{name} {numbers[name]}"
            # The token that some models start each document with belongs to the part after it.
            is_start = all(token.id == tokenizer.bos for token in parts[-1].tokens)
            tokens = parts.pop().tokens if is_start else []
            parts.append(Part(name=name, tokens=tokens, prefix=prefixes.get(place)))
        parts[-1].tokens.append(_token(tokenizer, id_, has_loss=bool(role)))
    return parts


def _token(tokenizer: Tokenizer, id_: int, *, has_loss: bool) -> Token:
    is_control = id_ in tokenizer.control_ids
    text = tokenizer.decode([id_]) if is_control else tokenizer.token_bytes(id_).decode("utf-8", "backslashreplace")
    return Token(id=id_, text=text, is_control=is_control, has_loss=has_loss)
