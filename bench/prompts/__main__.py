"""`make bench-prompts`: measures how much history prompts show, and the time to render them and a long history."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from rich.console import Console
from rich.table import Table

from brew_data.prompts.compiler import Entity, PastInteraction, PromptCompiler, PromptFormat
from brew_data.prompts.history import HOP_SHARE, first_kept, first_possible, hop_limit
from brew_data.prompts.suite import load_suite
from brew_data.prompts.tasks import TaskSpec
from brew_data.prompts.tokenizer import train_tokenizer
from brew_platform.provenance import machine, now, source_commit, versions

OUT = Path(__file__).parents[1] / "out"
CONTEXT, TURN, QUESTION = 512, 64, 80
EARLIER_HOP = 16  # turns; the rule before hops were counted in tokens
MEMBER_SIZES = (1_000, 10_000, 100_000)  # interactions
PROFILE = {"title": "nurse", "industry": "health", "seniority": "senior", "location": "Berlin", "skills": "care, law"}


def make_compiler() -> PromptCompiler:
    """Compiler of the suite economic_graph with a small tokenizer, and a context of 512 tokens."""
    suite = load_suite("economic_graph")
    texts = ["job for health", "nurse", "senior", "in Berlin", "care", "law", "apply", "skip", "a"]
    tokenizer = train_tokenizer([*texts, *(suite.instruction(task) for task in suite.tasks)] * 9, vocabulary_size=600)
    return PromptCompiler(
        suite, tokenizer, PromptFormat(context_length=CONTEXT, head_tokens=128, question_tokens=QUESTION)
    )


def job_of(tokens: int, compiler: PromptCompiler, time_: int) -> PastInteraction:
    """A past interaction whose turn has exactly this number of tokens."""
    for letters in range(1, tokens):  # one token each: the tokenizer's corpus has no q
        entity = Entity(entity_type="job", fields={"title": "q" * letters})
        past = PastInteraction(entity=entity, surface="jobs", action="apply", timestamp=time_)
        if sum(map(len, compiler.turn(PROFILE, past)[:2])) == tokens:
            return past
    raise ValueError(f"no turn has exactly {tokens} tokens")


def shown_turns(compiler: PromptCompiler, task: TaskSpec, interactions: int) -> list[int]:
    """Turns that a prompt shows, for histories of 1 to `interactions` turns of 64 tokens."""
    history = [job_of(TURN, compiler, time_) for time_ in range(interactions)]
    return [compiler.prefix(task, PROFILE, history[:count]).turns for count in range(1, interactions + 1)]


def earlier_rule(lengths: Sequence[int], budget: int) -> int:
    """Turns that the earlier rule shows: it drops 16 turns at a time until the rest fits."""
    while lengths and sum(lengths) > budget:
        lengths = lengths[EARLIER_HOP:]
    return len(lengths)


def history_figures(compiler: PromptCompiler, interactions: int) -> dict[str, Any]:
    """How many turns of 64 tokens a prompt of 512 tokens shows, by this rule and by the earlier one."""
    task = compiler.suite.task("job_apply")
    budget = CONTEXT - QUESTION - 1 - len(compiler.head(task, PROFILE)[0])
    rules = {
        "tokens": shown_turns(compiler, task, interactions),
        "turns": [earlier_rule([TURN] * count, budget) for count in range(1, interactions + 1)],
    }
    figures: dict[str, Any] = {"history_budget": budget, "turn_tokens": TURN, "hop_share": HOP_SHARE}
    for rule, shown in rules.items():
        figures[f"hop_in_{rule}"] = {
            "without_history": round(sum(turns == 0 for turns in shown) / len(shown), 3),
            "least_turns_of_5": min(shown[4:]),
            "mean_turns": round(sum(shown[4:]) / len(shown[4:]), 2),
        }
    return figures | reuse_figures(interactions)


def reuse_figures(interactions: int) -> dict[str, float]:
    """Share of the prompts after a new interaction whose history begins where that of the prompt before begins."""
    budget, turn, most = 1024 - 64 - 1 - 120, 24, 200  # short turns in 1,024 tokens
    hop = hop_limit(256, budget)
    starts: dict[str, list[int]] = {"tokens": [], "turns": []}
    for count in range(1, interactions + 1):
        oldest = first_possible(count, most)
        starts["tokens"].append(oldest + first_kept([turn] * (count - oldest), budget=budget, hop=hop, most=most))
        starts["turns"].append(count - earlier_rule([turn] * count, budget))
    return {
        f"prefix_reused_with_hop_in_{rule}": round(
            sum(old == new for old, new in pairwise(found)) / (interactions - 1), 3
        )
        for rule, found in starts.items()
    }


def microseconds(call: Callable[[], object], times: int) -> float:
    """CPU time of a call; the fastest of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(times):
            call()
        rounds.append((time.process_time() - start) / times * 1e6)
    return round(min(rounds), 2)


def rendering_figures(compiler: PromptCompiler) -> dict[str, float]:
    """Time to render one entity, and to compile the questions of 100 new candidates."""
    suite, task, template = compiler.suite, compiler.suite.task("job_apply"), compiler.suite.entities["job"]
    fields = {**PROFILE, "company": "Acme", "applicants": "17"}
    jinja = ImmutableSandboxedEnvironment().from_string("\n".join(template.phrases).replace("lines", "lower"))
    chat = load_suite("economic_graph_chat").entities["job"]
    numbers = iter(range(10**9))

    def candidates() -> None:
        for _ in range(100):
            entity = Entity(entity_type="job", fields={**fields, "title": f"nurse {next(numbers)}"})
            compiler.question(task, PROFILE, entity)

    known = Entity(entity_type="job", fields=fields)
    return {
        "render_entity_us": microseconds(lambda: template.render(fields), 2_000),
        "render_entity_with_conditions_us": microseconds(lambda: chat.render(fields), 2_000),
        "one_jinja2_template_us": microseconds(lambda: jinja.render(fields), 2_000),
        "question_text_us": microseconds(lambda: suite.question_text(task, PROFILE, "job", fields), 2_000),
        "question_of_a_known_entity_us": microseconds(lambda: compiler.question(task, PROFILE, known), 2_000),
        "questions_of_100_new_candidates_ms": round(microseconds(candidates, 5) / 1000, 2),
    }


def member_figures(compiler: PromptCompiler) -> dict[str, float]:
    """CPU time for one member: training documents, and the prefixes of the newest 500 moments."""
    task = compiler.suite.task("job_apply")
    figures: dict[str, float] = {}
    jobs = [Entity(entity_type="job", fields={**PROFILE, "title": f"nurse {number}"}) for number in range(2_000)]
    for count in MEMBER_SIZES:
        history = [
            PastInteraction(entity=jobs[time_ % len(jobs)], surface="jobs", action="apply", timestamp=time_)
            for time_ in range(count)
        ]
        start = time.process_time()
        compiler.documents(PROFILE, history)
        figures[f"documents_us_per_interaction_of_{count}"] = round((time.process_time() - start) / count * 1e6, 2)
        start = time.process_time()
        member = compiler.member(PROFILE, history)
        for moment in range(count - 500, count):
            member.prefix(task, before=moment)
        figures[f"prefixes_of_500_moments_of_{count}_ms"] = round((time.process_time() - start) * 1000, 1)
    return figures


def main() -> None:
    """Measure, print and write `bench/out/prompts.json`."""
    parser = argparse.ArgumentParser(prog="make bench-prompts", description=__doc__)
    parser.add_argument("--interactions", type=int, default=320, help="The longest history, in turns.")
    options = parser.parse_args()
    compiler = make_compiler()
    figures: dict[str, Any] = {
        "history": history_figures(compiler, options.interactions),
        "rendering": rendering_figures(compiler),
        "member": member_figures(compiler),
        "date": now(),
        "commit": source_commit(),
        "machine": machine(),
        "versions": versions(("jinja2", "tokenizers")),
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "prompts.json").write_text(json.dumps(figures, indent=1) + "\n")
    table = Table("", "value", title="Prompts", title_justify="left")
    for part in ("history", "rendering", "member"):
        for name, value in figures[part].items():
            table.add_row(name, str(value))
    console = Console()
    console.print(table)
    console.print(str(OUT / "prompts.json"), markup=False)


if __name__ == "__main__":
    main()
