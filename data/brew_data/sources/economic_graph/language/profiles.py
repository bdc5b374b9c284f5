"""Texts of members: headline, about, positions, education and skills.

No field has the industry; roles, skills, duties and degrees say it. A skill is written as its name or as a tool or a
task that stands for it.
"""

from collections.abc import Mapping

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import MemberFacts, PositionFacts
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence
from brew_data.sources.economic_graph.language.titles import position_title

__all__ = ["profile"]

_RULES: dict[str, Mapping[str, tuple[str, ...]]] = {}
_RULES["en"] = {
    "headline": (
        "{title} at {company}",
        "{title} | {skill}",
        "{title}, {company}",
        "{skill} | {title}",
        "{title}, into {skill}",
    ),
    "seeking": ("open to work", "looking for a new role", "available from next month", "open to offers"),
    "work": (
        "I {duty}.",
        "My days: {duty}.",
        "{years} years in {field}.",
        "At {company} I {duty}.",
        "With my team I {win}.",
        "Proud that we {win}.",
    ),
    "skilled": ("Best at {skill}.", "People ask me about {skill}.", "Fond of {skill}."),
    "interest": (
        "I write about {subject}.",
        "I care about {subject}.",
        "Curious about {subject}.",
        "Ask me about {subject}.",
        "After hours: {subject}.",
    ),
    "position": ("{title} at {company}, {length}", "{title}, {company} ({length})", "{company}: {title}, {length}"),
    "length": ("{years} yr", "{years} years"),
    "length_1": ("1 yr", "1 year"),
    "education": ("{degree}, University of {city}", "BSc {degree}, {city}", "{degree} degree, {city} College"),
}
_RULES["de"] = {
    "headline": ("{title} bei {company}", "{title} | {skill}", "{title}, {company}", "{skill} | {title}"),
    "seeking": ("offen für Angebote", "auf Stellensuche", "sucht neue Aufgabe"),
    "work": (
        "Mein Alltag: {duty}.",
        "Seit {years} Jahren im Bereich {field}.",
        "Bei {company}: {duty}.",
        "Meine Aufgaben: {duty}.",
    ),
    "skilled": ("Am liebsten {skill}.", "Stark in {skill}.", "Kollegen fragen mich nach {skill}."),
    "interest": ("Ich schreibe über {subject}.", "Mich interessiert: {subject}.", "Nach Feierabend: {subject}."),
    "position": ("{title} bei {company}, {length}", "{title}, {company} ({length})"),
    "length": ("{years} J.", "{years} Jahre"),
    "length_1": ("1 J.", "1 Jahr"),
    "education": ("Studium {degree}, Universität {city}", "BSc {degree}, {city}", "{degree}, Hochschule {city}"),
}
_RULES["fr"] = {
    "headline": ("{title} chez {company}", "{title} | {skill}", "{title}, {company}", "{skill} | {title}"),
    "seeking": ("à l'écoute du marché", "en recherche d'emploi", "ouvert aux propositions"),
    "work": ("Mon quotidien : {duty}.", "{years} ans dans la branche.", "Chez {company} : {duty}.", "J'aime {duty}."),
    "skilled": ("Mon point fort : {skill}.", "On me consulte sur ce sujet : {skill}."),
    "interest": ("J'écris sur {subject}.", "Passionné par {subject}.", "Le soir : {subject}."),
    "position": ("{title} chez {company}, {length}", "{title}, {company} ({length})"),
    "length": ("{years} ans",),
    "length_1": ("1 an",),
    "education": ("Licence {degree}, Université de {city}", "Master {degree}, {city}", "{degree}, {city}"),
}
_RULES["es"] = {
    "headline": ("{title} en {company}", "{title} | {skill}", "{title}, {company}", "{skill} | {title}"),
    "seeking": ("en busca de empleo", "abierto a ofertas", "busco nuevo reto"),
    "work": ("Mi día a día: {duty}.", "{years} años en {field}.", "En {company}: {duty}.", "Me gusta {duty}."),
    "skilled": ("Mi fuerte: {skill}.", "Me consultan por {skill}."),
    "interest": ("Escribo sobre {subject}.", "Me interesa este tema: {subject}.", "Por las noches: {subject}."),
    "position": ("{title} en {company}, {length}", "{title}, {company} ({length})"),
    "length": ("{years} años",),
    "length_1": ("1 año",),
    "education": ("Grado en {degree}, Universidad de {city}", "Máster en {degree}, {city}", "{degree}, {city}"),
}
_RULES["pt"] = {
    "headline": ("{title} na {company}", "{title} | {skill}", "{title}, {company}", "{skill} | {title}"),
    "seeking": ("em busca de emprego", "aberto a propostas", "disponível para novas vagas"),
    "work": ("Meu dia a dia: {duty}.", "{years} anos em {field}.", "Na {company}: {duty}.", "Gosto de {duty}."),
    "skilled": ("Meu forte: {skill}.", "Sou referência em {skill}."),
    "interest": ("Escrevo sobre {subject}.", "Tema que me interessa: {subject}.", "Nas horas livres: {subject}."),
    "position": ("{title} na {company}, {length}", "{title}, {company} ({length})"),
    "length": ("{years} anos",),
    "length_1": ("1 ano",),
    "education": ("Graduação em {degree}, Universidade de {city}", "Mestrado em {degree}, {city}", "{degree}, {city}"),
}
_GRAMMARS = {language: Grammar(rules) for language, rules in _RULES.items()}


def profile(facts: MemberFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write headline, about, positions, education, skills and location of a member.

    Args:
        facts: Everything but the followers, which are a number of their own.
        draw: Uniform numbers.
        language: One of LANGUAGES.
        scale: 1 for one sentence about the work in `about`; at most three. Interests come on top.
    """
    grammar, current = _GRAMMARS[language], facts.position
    industry = current.industry
    skills = [words.SKILL_PHRASES[language][industry][skill] for skill in facts.skills]
    title = position_title(draw, language, industry, current.role, current.seniority)
    city = words.CITY_PHRASES[language][facts.city][0]
    slots: Facts = {
        "title": title,
        "company": current.company,
        "skill": skills[int(draw() * len(skills))] if skills else words.FIELDS[language][industry],
        "field": words.FIELDS[language][industry],
        "duty": words.DUTIES[language][industry],
        "win": words.WINS[industry],
        "degree": words.DEGREES[language][industry],
        "years": str(max(2, current.years + (facts.past.years if facts.past else 0))),
        "city": city,
    }
    headline = grammar.write("headline", slots, draw)
    if facts.seeks_job:
        headline = f"{headline}, {grammar.write('seeking', slots, draw)}"
    parts = ["work", "skilled", "work"][: max(1, round(scale))]
    about = [grammar.write(part, slots, draw) for part in parts]
    for topic in facts.topics:
        subject = words.TOPIC_PHRASES[language][topic]
        about.append(grammar.write("interest", {"subject": subject}, draw))
    positions = [_position(current, grammar, draw, language)]
    if facts.past is not None:
        positions.append(_position(facts.past, grammar, draw, language))
    return {
        "headline": sentence(headline),
        "about": " ".join(dict.fromkeys(map(sentence, about))),
        "positions": "; ".join(positions),
        "education": sentence(grammar.write("education", slots, draw)),
        "skills": ", ".join(phrases[int(draw() * len(phrases))] for phrases in skills),
        "location": city,
    }


def _position(position: PositionFacts, grammar: Grammar, draw: Draw, language: str) -> str:
    slots: Facts = {
        "title": position_title(draw, language, position.industry, position.role, position.seniority),
        "company": position.company,
        "length": grammar.write("length" if position.years > 1 else "length_1", {"years": str(position.years)}, draw),
    }
    return grammar.write("position", slots, draw)
