"""`python -m bench.small_base.knowledge OUT --suite FOLDER`: writes what texts of a graph say, as conversations.

An open base model knows which industry a job title belongs to, and sees when two texts are about the same. Reactions
alone do not teach a small model either of them: they are noisy, and no text and no profile predicts whether the two
match. So it first reads the facts that the texts were written from, then how members react who decide by these alone:

    facts.jsonl       a text, and its facts
    named.jsonl       a profile and its facts; then texts, their facts, whether the member has each, and the reaction
    matches.jsonl     a profile; then texts, and only whether the member has their facts
    reactions.jsonl   a profile; then texts, and only the reaction, in the layout and with the words of the suite
    interests.jsonl   the same for members who decide by topics and industries that they like or dislike: only earlier
                      reactions show which; some conversations name what those were

Only entities of trained surfaces are read. The texts are those that the suite shows.
"""

import argparse
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from brew_cluster.cli.runner import supervise
from brew_data.prompts.fields import field_values
from brew_data.prompts.suite import TaskSuite, load_suite
from brew_data.prompts.tasks import Surface
from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.behaviour import match_features
from brew_data.sources.economic_graph.config import EconomicGraphConfig
from brew_data.sources.economic_graph.facts import EMPLOYERS, TONES
from brew_data.sources.economic_graph.surfaces import SURFACES
from brew_data.sources.economic_graph.texts import entity_texts, member_texts, text_blocks
from brew_data.sources.economic_graph.world import World, draw_world
from brew_platform.console.plain_console import PlainConsole
from brew_platform.files import atomic_folder

__all__ = ["FILES", "Knowledge", "write_knowledge"]

FILES = ("facts", "named", "matches", "reactions", "interests")
TURNS = 24  # of a conversation; turns that exceed the context are left out when it is compiled
QUALITY = ("poor", "fair", "good", "great")  # words for the levels of quality
FACTS = "Say what each text is about."
NAMED = "Say what each text is about, and whether the member has it."
MATCHES = "Say what the member has of each text."
INTERESTS = "Say what each text is about, and how the member liked it before."
_DEPTHS = {surface.name: {action.name: action.depth for action in surface.actions} for surface in SURFACES}
_BY_TOPIC = ("post", "notification", "group")  # their match is one of topics
_NAMED_SHARE = 0.4  # of the conversations of `interests`
_INTERESTS = {True: 4, False: 3}  # topics, industries in one of them; the member likes or dislikes each
_OTHER_SHARE = 0.05  # of their reactions, against the interest
_OWN_SHARE = 0.5  # of the texts of a conversation: of the member's industry, or of one of its topics
_MENTIONED_SHARE = 0.4  # of those by topic, if the profile mentions a topic: of this one


class Knowledge:
    """The conversations about one graph.

    Args:
        world: The graph.
        suite: What the texts show.
        seed: Of the choice of texts.
    """

    def __init__(self, world: World, suite: TaskSuite, seed: int) -> None:
        self._world, self._suite = world, suite
        self._random = random.Random(seed)
        self._fields = [
            fields
            for rows in text_blocks(world.entities.count)
            for fields in entity_texts(world, rows).fields.to_pylist()
        ]
        self._profiles = [
            suite.profile.render(field_values(fields))
            for rows in text_blocks(world.members.count)
            for fields in member_texts(world, rows).fields.to_pylist()
        ]
        self._instructions = [suite.instruction(task) for task in suite.tasks if task.in_training]
        self._surfaces = [surface for surface in suite.surfaces if surface.name in suite.trained_surfaces]
        self._by_industry = self._groups(world.entities.industry_E, len(words.INDUSTRIES))
        self._by_topic = self._groups(world.entities.topic_E, len(words.TOPICS))

    def facts(self, conversations: int) -> Iterator[list[dict[str, str]]]:
        """Yield conversations about texts and their facts; one in four texts is a profile."""
        members, entities = self._world.members, self._world.entities
        for _ in range(conversations):
            turns = []
            for _ in range(TURNS):
                if self._random.random() < 0.25:
                    member = self._random.randrange(members.count)
                    turns.append((f"member\n{self._profiles[member]}\n", self._facts_of_member(member)))
                    continue
                surface = self._random.choice(self._surfaces)
                entity = self._random.choice(entities.rows(surface.entity_type))
                turns.append((self._question(surface, entity), self._facts_of_entity(surface.entity_type, entity)))
            yield _messages(FACTS, turns)

    def of_members(self, kind: str, conversations: int) -> Iterator[list[dict[str, str]]]:
        """Yield conversations about a member and texts.

        Half of those of `named` have the instruction of a task instead of their own.

        Args:
            kind: named, matches or reactions.
            conversations: Their number.
        """
        for _ in range(conversations):
            member, instruction = self._draw_head()
            if kind == "matches" or (kind == "named" and self._random.random() < 0.5):
                instruction = MATCHES if kind == "matches" else NAMED
            turns = [("member\n", self._facts_of_member(member))] if kind == "named" else []
            for _ in range(TURNS):
                surface = self._random.choice(self._surfaces)
                entity = self._draw(surface.entity_type, member)
                turns.append((self._question(surface, entity), self._answer(kind, surface, member, entity)))
            yield _messages(instruction, turns, profile=f"{self._profiles[member]}\n")

    def interests(self, conversations: int) -> Iterator[list[dict[str, str]]]:
        """Yield conversations about a member with interests, and texts about them."""
        chance = self._random.random
        names = {True: words.TOPICS, False: words.INDUSTRIES}
        for _ in range(conversations):
            member, instruction = self._draw_head()
            is_named = chance() < _NAMED_SHARE
            if is_named and chance() < 0.5:
                instruction = INTERESTS
            liked = {
                (by_topic, group): chance() < 0.5
                for by_topic, count in _INTERESTS.items()
                for group in self._random.sample(range(len(names[by_topic])), count)
            }
            turns, before = [], {}
            for _ in range(TURNS):
                surface = self._random.choice(self._surfaces)
                by_topic = surface.entity_type in _BY_TOPIC
                interest = self._random.choice([interest for interest in liked if interest[0] == by_topic])
                groups = self._by_topic if by_topic else self._by_industry
                if not (entities := groups[surface.entity_type][interest[1]]):
                    continue
                likes = liked[interest] != (chance() < _OTHER_SHARE)
                none, deepest = _labels(surface)
                reaction = self._random.choice(deepest[:2]) if likes else none
                if is_named:
                    reaction = f"{names[by_topic][interest[1]]} {before.get(interest, 'new')}: {reaction}"
                    before[interest] = "yes" if liked[interest] else "no"
                turns.append((self._question(surface, self._random.choice(entities)), reaction))
            yield _messages(instruction, turns, profile=f"{self._profiles[member]}\n")

    def _groups(self, group_E: np.ndarray, count: int) -> dict[str, list[list[int]]]:
        """Return the entities of each type by their group."""
        groups: dict[str, list[list[int]]] = {}
        for surface in self._surfaces:
            found: list[list[int]] = [[] for _ in range(count)]
            for entity in self._world.entities.rows(surface.entity_type):
                found[group_E[entity]].append(entity)
            groups[surface.entity_type] = found
        return groups

    def _draw_head(self) -> tuple[int, str]:
        """Draw a member, and the instruction of a task."""
        return self._random.randrange(self._world.members.count), self._random.choice(self._instructions)

    def _draw(self, entity_type: str, member: int) -> int:
        members = self._world.members
        group: list[int] = []
        if self._random.random() < _OWN_SHARE:
            industry = members.industry_M[member]
            if entity_type not in _BY_TOPIC:
                group = self._by_industry[entity_type][industry]
            else:
                mention = members.mention_M[member]
                mentioned = mention >= 0 and self._random.random() < _MENTIONED_SHARE
                topic = mention if mentioned else self._random.choice(words.INDUSTRY_TOPICS[industry])
                group = self._by_topic[entity_type][topic]
        return self._random.choice(group or self._world.entities.rows(entity_type))

    def _question(self, surface: Surface, entity: int) -> str:
        return self._suite.question_text(surface, {}, surface.entity_type, self._fields[entity])

    def _facts_of_member(self, member: int) -> str:
        members = self._world.members
        industry, mention = members.industry_M[member], members.mention_M[member]
        facts = [
            words.INDUSTRIES[industry],
            words.SENIORITIES[members.seniority_M[member]],
            words.ROLES[industry][members.role_M[member]],
        ]
        return ", ".join(facts + ([words.TOPICS[mention]] if mention >= 0 else []))

    def _facts_of_entity(self, entity_type: str, entity: int) -> str:
        entities = self._world.entities
        industry = words.INDUSTRIES[entities.industry_E[entity]]
        seniority = words.SENIORITIES[entities.seniority_E[entity]]
        role = words.ROLES[entities.industry_E[entity]][entities.role_E[entity]]
        topic = words.TOPICS[entities.topic_E[entity]]
        tone, quality = TONES[entities.tone_E[entity]], QUALITY[entities.quality_E[entity]]
        employer = EMPLOYERS[entities.employer_E[entity]]
        return ", ".join(
            {
                "company": (industry, employer, topic),
                "course": (industry, seniority),
                "group": (topic,),
                "notification": (topic, tone, quality),
                "person": (industry, seniority, role),
                "post": (topic, tone, quality),
            }.get(entity_type, (industry, seniority, role))
        )

    def _answer(self, kind: str, surface: Surface, member: int, entity: int) -> str:
        features = match_features(self._world, surface.entity_type, np.array([member]), np.array([entity]))
        found = {name: float(value[0]) for name, value in features.items()}
        if kind == "reactions":
            return _reaction(surface, found)
        matches = _matches(surface.entity_type, found)
        if kind == "matches":
            return " ".join(matches)
        facts = self._facts_of_entity(surface.entity_type, entity).split(", ")
        named = ", ".join(f"{fact} {match}" for fact, match in zip(facts, matches, strict=False))
        return f"{named}: {_reaction(surface, found)}"


def _matches(entity_type: str, found: Mapping[str, float]) -> list[str]:
    """Say whether the member has each fact: yes, no, or the steps between two seniorities."""

    def has(name: str) -> str:
        return "yes" if found[name] > 0 else "no"

    if entity_type in _BY_TOPIC:
        return [f"{has('related_topic')} {has('mentioned_topic')}"]  # of one fact, the topic
    steps = [str(round(found["seniority_steps"]))] if "seniority_steps" in found else []
    return [has("same_industry"), *steps, *([has("same_role")] if "same_role" in found else [])]


def _reaction(surface: Surface, found: Mapping[str, float]) -> str:
    """Return the label of the first action if much is the member's, of the second if something is, else of none."""
    none, deepest = _labels(surface)
    if found.get("related_topic", 0) + found.get("mentioned_topic", 0) + found["same_industry"] == 0:
        return none
    is_much = any(found.get(name, 0) for name in ("same_role", "mentioned_topic", "same_company"))
    return deepest[0] if is_much or len(surface.actions) == 3 else deepest[1]


def _labels(surface: Surface) -> tuple[str, list[str]]:
    """Return the label of no reaction, and those of the actions that a member takes who likes what is shown."""
    depths = _DEPTHS[surface.name]
    labels = {action.name: action.label for action in surface.actions}
    (none,) = (label for name, label in labels.items() if depths[name] == 0)
    return none, [label for name, label in labels.items() if depths[name] > 0]


def write_knowledge(
    out: Path, suite: TaskSuite, config: EconomicGraphConfig, *, conversations: int, seed: int = 0
) -> Path:
    """Write the files.

    Args:
        out: The folder; replaced.
        suite: What the texts show. It must not show percentiles, which need a data set.
        config: The graph.
        conversations: Of each file.
        seed: Of the choice of texts.

    Returns:
        `out`.
    """
    knowledge = Knowledge(draw_world(config), suite, seed)
    with atomic_folder(out) as temporary:
        for name, rows in (
            ("facts", knowledge.facts(conversations)),
            *((kind, knowledge.of_members(kind, conversations)) for kind in ("named", "matches", "reactions")),
            ("interests", knowledge.interests(conversations)),
        ):
            with (temporary / f"{name}.jsonl").open("w") as file:
                file.writelines(f"{json.dumps({'messages': messages}, ensure_ascii=False)}\n" for messages in rows)
    return out


def _messages(instruction: str, turns: list[tuple[str, str]], *, profile: str = "") -> list[dict[str, str]]:
    pairs = [("system", instruction), *([("member", profile)] if profile else [])]
    for question, answer in turns:
        pairs += [("user", question), ("assistant", answer)]
    return [{"role": role, "content": content} for role, content in pairs]


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.small_base.knowledge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--suite", required=True, help="Name or folder of the suite.")
    parser.add_argument("--members", type=int, default=8_000, help="Of the graph. Default: %(default)s.")
    parser.add_argument("--seed", type=int, required=True, help="Of the graph, and of the choice.")
    parser.add_argument("--conversations", type=int, default=8_000, help="Of each file. Default: %(default)s.")
    options = parser.parse_args()
    with supervise(PlainConsole()):
        config = EconomicGraphConfig(seed=options.seed, members=options.members)
        suite = load_suite(options.suite)
        write_knowledge(options.out, suite, config, conversations=options.conversations, seed=options.seed)


if __name__ == "__main__":
    main()
