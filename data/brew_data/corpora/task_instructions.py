"""Makes instructions from past interactions: what a ranking prompt shows, and a request for a label with its reason."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from brew_data.corpora.answer_rules import Instruction
from brew_data.prompts.compiler import PromptCompiler
from brew_data.prompts.tasks import TaskSpec
from brew_data.records import MemberHistory
from brew_data.split import hash_integers

__all__ = ["task_instructions"]

MOST_WORDS = 40  # of an answer
ANSWER_TOKENS = 2 * MOST_WORDS
_REQUEST = (
    "Begin the answer with one of: {labels}. Then give the reason in one sentence, at most {words} words in total."
)


def task_instructions(
    members: Iterable[MemberHistory], compiler: PromptCompiler, *, per_member: int = 1
) -> Iterator[Instruction]:
    """Yield instructions about interactions of members.

    The prompt shows the strictly earlier history, and the question of a trained task. Prompt and answer fit half of the
    context, because both answers of a pair are in one bin. The label of the action is the one that a judge expects.

    Args:
        members: From `brew_data.pipelines.member_groups.read_members`, which leaves out interactions after the cut.
        compiler: Renders the prompts.
        per_member: The largest number of instructions of a member. Its interactions and their tasks are drawn by a hash
            of their ids.

    Raises:
        UserError: A row has an unknown action.
    """
    for member in members:
        key_N = hash_integers(np.array(member.interaction_ids, np.uint64))
        for place in np.argsort(key_N, kind="stable")[:per_member].tolist():
            surface = member.history[place].surface
            tasks = [task for task in compiler.suite.tasks_of(surface) if task.in_training]
            if tasks:
                yield _instruction(compiler, tasks[int(key_N[place] >> np.uint64(32)) % len(tasks)], member, place)


def _instruction(compiler: PromptCompiler, task: TaskSpec, member: MemberHistory, place: int) -> Instruction:
    tokenizer, scored = compiler.tokenizer, member.history[place]
    labels = {name: _text(compiler, ids) for name, ids in compiler.labels(task).items()}
    request = _REQUEST.format(labels=", ".join(labels.values()), words=MOST_WORDS)
    head, _ = compiler.head(task, member.profile)
    question, _ = compiler.question(task, member.profile, scored.entity)
    fixed = len(head) + len(question) + len(tokenizer.encode(request))
    budget = compiler.format.context_length // 2 - fixed - ANSWER_TOKENS
    prompts = compiler.member(member.profile, member.history)
    shown = prompts.fill(task, budget=budget, candidate=scored.entity, before=scored.timestamp)
    turns = [f"{_text(compiler, turn.question)} {_text(compiler, turn.answer)}" for turn in prompts.turns(task, shown)]
    profile = head.index(tokenizer.member)
    return Instruction(
        id=f"{task.name}/{member.interaction_ids[place]}",
        instruction=_text(compiler, head[:profile]),
        profile=_text(compiler, head[profile:]),
        prompt="\n".join([*turns, _text(compiler, question), request]),
        labels=tuple(labels.values()),
        label=labels[compiler.suite.outcome(task, scored.action).name],
        most_words=MOST_WORDS,
    )


def _text(compiler: PromptCompiler, ids: Sequence[int]) -> str:
    """Return the text of a part of a prompt, without control tokens."""
    controls = compiler.tokenizer.control_ids
    return compiler.tokenizer.decode([id_ for id_ in ids if id_ not in controls]).strip()
