"""Texts about a topic: posts, comments, articles and notifications.

The tone is in the structure of the text (advice, a claim, a story, figures), the quality in its last sentence: from
begging for reactions (0) to evidence that can be checked (3).
"""

from collections.abc import Mapping

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import EntityFacts
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence

__all__ = ["article", "comment", "notification", "post"]

# `tone_i` speaks for TONES[i] and `more_i` continues in the same tone; `quality_i` for quality i.
_RULES: dict[str, Mapping[str, tuple[str, ...]]] = {}
_RULES["en"] = {
    "tone_0": (
        "{n} things that work for {subject}: {tip}, and {tip_2}.",
        "How we deal with {subject}: {tip}.",
        "A checklist for {subject}. First, {tip}.",
        "Struggling with {subject}? Try this: {tip}, then {tip_2}.",
        "My routine for {subject}: {tip}.",
        "We rebuilt our approach to {subject} around one rule: {tip}.",
        "If you start with {subject} on Monday, {tip}.",
    ),
    "tone_1": (
        "Unpopular opinion on {subject}: {claim}.",
        "We have to stop the hype around {subject}. Honestly, {claim}.",
        "I disagree with most takes on {subject}. I think {claim}.",
        "Hot take: {claim}. Change my mind about {subject}.",
        "Let us be frank about {subject}: {claim}.",
        "I may lose followers for this: enough about {subject}.",
        "Everybody praises {subject}. I am not sold, {claim}.",
    ),
    "tone_2": (
        "Three years ago I knew nothing about {subject}. My first boss taught me.",
        "Yesterday {subject} made me cry, then laugh. I learned that {claim}.",
        "I failed at {subject} twice before it worked for me.",
        "My daughter asked me about {subject} and I had no answer.",
        "Grateful for my team and a year of {subject}.",
        "I was the only beginner at the table when we spoke about {subject}.",
        "After a hard spring with {subject}, I finally took a week off.",
    ),
    "tone_3": (
        "New survey on {subject} out today: {claim}.",
        "Breaking: fresh figures on {subject}. Analysts say {claim}.",
        "This week in {subject}: {claim}.",
        "Report: {claim}. What regulators plan for {subject}.",
        "Just announced: new rules for {subject} from January.",
        "From the conference on {subject}: {claim}.",
        "Quarterly numbers are in. On {subject}, {claim}.",
    ),
    "more_0": ("Next, {tip_3}.", "Step two: {tip_3}.", "Costs nothing: {tip_3}."),
    "more_1": ("And {claim_2}.", "Nobody says it, but {claim_2}.", "Prove me wrong."),
    "more_2": ("I still have the note from that day.", "It changed how I work.", "My mentor would smile."),
    "more_3": ("The minister comments on Monday.", "Sources confirm it.", "Shares moved on the news."),
    "quality_3": (
        "Data from {n} months in the link.",
        "We measured it at {n} sites, numbers below.",
        "Template and sources attached.",
        "Charts with {n} cases inside.",
        "I wrote up the method, with costs and mistakes.",
    ),
    "quality_2": ("Happy to share details.", "An example is in the comments.", "Slides below.", "Ask me anything."),
    "quality_1": ("Thoughts?", "What do you think?", "Curious about your view.", "More soon."),
    "quality_0": (
        "Agree?? Like and follow!!",
        "Comment YES for part two!!!",
        "#motivation #grind #success",
        "Tag 10 friends!!",
        "Repost if you are a real leader!!!",
    ),
    "comment_0": ("Try this: {tip}.", "What helped us: {tip}.", "Tip from practice: {tip}."),
    "comment_1": ("I see it differently: {claim}.", "Exactly, {claim}.", "Not convinced, {claim}."),
    "comment_2": ("This reminds me of my first year.", "Same here, it took me years.", "Thank you, that was my story."),
    "comment_3": ("The new report says {claim}.", "In today's paper: {claim}.", "Figures came out this morning."),
    "title_0": ("A guide to {subject}", "How to handle {subject}", "{subject} in {n} steps", "First steps: {subject}"),
    "title_1": (
        "Why we are wrong about {subject}",
        "The case against {subject}",
        "{claim}",
        "Honestly about {subject}",
    ),
    "title_2": ("What {subject} taught me", "My year with {subject}", "A letter about {subject}", "{subject} and me"),
    "title_3": (
        "{subject}: the week in figures",
        "New numbers on {subject}",
        "What is new in {subject}",
        "Study: {claim}",
    ),
    "notice_0": ("shared a guide to {subject}: {tip}", "has advice on {subject}"),
    "notice_1": ("has a strong opinion on {subject}: {claim}", "argues about {subject}: {claim}"),
    "notice_2": ("tells a personal story about {subject}", "looks back at {subject}"),
    "notice_3": ("has news on {subject} and reports that {claim}", "shared figures on {subject}"),
    "reach_3": ("{n} of your connections joined the discussion", "{n} experts answered"),
    "reach_2": ("Two colleagues commented", "Your colleague liked this"),
    "reach_1": ("Popular today", "Suggested for you"),
    "reach_0": ("You may have missed this", "Do not miss out!", "Come back, we miss you!"),
}
_RULES["de"] = {
    "tone_0": (
        "{n} Tipps für {subject}: klein anfangen und messen.",
        "So gehen wir vor, Thema {subject}: erst die Checkliste, dann der Test.",
        "Anleitung: in {n} Schritten, Stichwort {subject}.",
    ),
    "tone_1": (
        "Unbequeme Meinung über {subject}: der Hype schadet.",
        "Seien wir ehrlich, Thema {subject}: alles zu laut, zu wenig Substanz.",
        "Ich sehe das anders. Stichwort {subject}.",
    ),
    "tone_2": (
        "Vor drei Jahren wusste ich nichts über {subject}. Mein Chef half mir.",
        "Zweimal bin ich gescheitert. Heute bin ich dankbar. Stichwort {subject}.",
        "Gestern fragte meine Tochter etwas über {subject}.",
    ),
    "tone_3": (
        "Neue Studie über {subject} erschienen.",
        "Aktuelle Zahlen, Thema {subject}.",
        "Eilmeldung: neue Regeln für {subject} ab Januar.",
    ),
    "more_0": ("Danach täglich üben.", "Kostet nichts."),
    "more_1": ("Das sagt sonst keiner.", "Widerspruch willkommen."),
    "more_2": ("Das hat mich verändert.", "Ich denke oft daran."),
    "more_3": ("Der Minister äußert sich am Montag.", "Die Kurse reagieren."),
    "quality_3": ("Daten aus {n} Monaten im Link.", "Vorlage und Quellen im Anhang."),
    "quality_2": ("Details gerne per Nachricht.", "Folien unten."),
    "quality_1": ("Was meint ihr?", "Mehr demnächst."),
    "quality_0": ("Liken und folgen!!", "#motivation #erfolg"),
}
_RULES["fr"] = {
    "tone_0": (
        "{n} conseils pour {subject} : commencer petit et mesurer.",
        "Notre méthode pour {subject} : une liste, puis un test.",
        "Guide pratique en {n} étapes sur {subject}.",
    ),
    "tone_1": (
        "Avis impopulaire sur {subject} : trop de bruit, peu de fond.",
        "Soyons honnêtes sur {subject}.",
        "Je ne suis pas d'accord avec ce qu'on lit sur {subject}.",
    ),
    "tone_2": (
        "Il y a trois ans, je ne savais rien sur {subject}. Mon chef m'a aidé.",
        "J'ai échoué deux fois avec {subject}. Aujourd'hui, merci à mon équipe.",
        "Hier, ma fille m'a posé une question sur {subject}.",
    ),
    "tone_3": (
        "Nouvelle étude sur {subject} publiée ce matin.",
        "Les derniers chiffres sur {subject}.",
        "Dernière minute : nouvelles règles pour {subject} dès janvier.",
    ),
    "more_0": ("Ensuite, pratiquer chaque jour.", "Cela ne coûte rien."),
    "more_1": ("Personne n'ose le dire.", "Dites-moi si j'ai tort."),
    "more_2": ("Cela m'a changé.", "J'y pense souvent."),
    "more_3": ("Le ministre parle lundi.", "La bourse réagit."),
    "quality_3": ("Données sur {n} mois dans le lien.", "Modèle et sources en pièce jointe."),
    "quality_2": ("Détails en message.", "Diapos ci-dessous."),
    "quality_1": ("Qu'en pensez-vous ?", "La suite bientôt."),
    "quality_0": ("Likez et suivez-moi !!", "#motivation #succès"),
}
_RULES["es"] = {
    "tone_0": (
        "{n} consejos para {subject}: empezar poco a poco y medir.",
        "Nuestro método para {subject}: una lista y una prueba.",
        "Guía práctica en {n} pasos sobre {subject}.",
    ),
    "tone_1": (
        "Opinión impopular sobre {subject}: mucho ruido y poco fondo.",
        "Seamos honestos sobre {subject}.",
        "No estoy de acuerdo con lo que se dice sobre {subject}.",
    ),
    "tone_2": (
        "Hace tres años no sabía nada sobre {subject}. Mi jefe me ayudó.",
        "Fracasé dos veces con {subject}. Hoy doy gracias a mi equipo.",
        "Ayer mi hija me preguntó sobre {subject}.",
    ),
    "tone_3": (
        "Nuevo estudio sobre {subject} publicado hoy.",
        "Últimas cifras sobre {subject}.",
        "Última hora: nuevas reglas para {subject} desde enero.",
    ),
    "more_0": ("Luego, practicar cada día.", "No cuesta nada."),
    "more_1": ("Nadie lo dice.", "Decidme si me equivoco."),
    "more_2": ("Me cambió la vida.", "Pienso mucho en ello."),
    "more_3": ("El ministro habla el lunes.", "La bolsa reacciona."),
    "quality_3": ("Datos de {n} meses en el enlace.", "Plantilla y fuentes adjuntas."),
    "quality_2": ("Más detalles por mensaje.", "Diapositivas abajo."),
    "quality_1": ("¿Qué opinas?", "Pronto más."),
    "quality_0": ("¡¡Dale like y sígueme!!", "#motivación #éxito"),
}
_RULES["pt"] = {
    "tone_0": (
        "{n} dicas para {subject}: começar aos poucos e medir.",
        "Nosso método para {subject}: uma lista e um teste.",
        "Guia prático em {n} passos sobre {subject}.",
    ),
    "tone_1": (
        "Opinião impopular sobre {subject}: muito barulho e pouco conteúdo.",
        "Sejamos honestos sobre {subject}.",
        "Não concordo com o que se diz sobre {subject}.",
    ),
    "tone_2": (
        "Há três anos eu não sabia nada sobre {subject}. Meu chefe me ajudou.",
        "Falhei duas vezes com {subject}. Hoje agradeço à minha equipe.",
        "Ontem minha filha me perguntou sobre {subject}.",
    ),
    "tone_3": (
        "Novo estudo sobre {subject} publicado hoje.",
        "Últimos números sobre {subject}.",
        "Urgente: novas regras para {subject} a partir de janeiro.",
    ),
    "more_0": ("Depois, praticar todo dia.", "Não custa nada."),
    "more_1": ("Ninguém diz isso.", "Me digam se estou errado."),
    "more_2": ("Isso me mudou.", "Penso muito nisso."),
    "more_3": ("O ministro fala na segunda.", "A bolsa reage."),
    "quality_3": ("Dados de {n} meses no link.", "Modelo e fontes em anexo."),
    "quality_2": ("Detalhes por mensagem.", "Slides abaixo."),
    "quality_1": ("O que acham?", "Em breve mais."),
    "quality_0": ("Curta e siga!!", "#motivação #sucesso"),
}
_GRAMMARS = {language: Grammar(rules) for language, rules in _RULES.items()}


def post(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write author and text of a post.

    Args:
        facts: Topic, tone, quality, author, author_industry, author_role.
        draw: Uniform numbers.
        language: One of LANGUAGES.
        scale: 1 for a text of two parts, about the topic and for the quality; up to two more parts in between.
    """
    length = max(1, round(2 * scale))
    return {
        "author": _author(facts, draw, language),
        "text": _text(["tone", "quality", "more", "more"][:length], facts, draw, language),
    }


def article(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write author, title and text of an article in English, from the facts of a post. `scale` 1: two sentences."""
    del language
    length = max(1, round(2 * scale))
    slots = _slots(facts, draw, "en")
    return {
        "author": _author(facts, draw, "en"),
        "title": sentence(_GRAMMARS["en"].write(f"title_{facts.tone}", slots, draw)),
        "text": _text(["tone", "quality", "more", "more"][:length], facts, draw, "en"),
    }


def notification(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write author and text of a notification in English, from the facts of a post. The text follows the author."""
    del language, scale
    slots = _slots(facts, draw, "en")
    first = _GRAMMARS["en"].write(f"notice_{facts.tone}", slots, draw)
    second = sentence(_GRAMMARS["en"].write(f"reach_{facts.quality}", slots, draw))
    return {"author": _author(facts, draw, "en"), "text": f"{first}. {second}"}


def comment(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write the text of a comment in English, from topic and tone."""
    del language, scale
    return {"text": sentence(_GRAMMARS["en"].write(f"comment_{facts.tone}", _slots(facts, draw, "en"), draw))}


def _slots(facts: EntityFacts, draw: Draw, language: str) -> Facts:
    tips, claims = words.TOPIC_TIPS[facts.topic], words.TOPIC_CLAIMS[facts.topic]
    first, other = int(draw() * len(tips)), int(draw() * len(claims))
    return {
        "subject": words.TOPIC_PHRASES[language][facts.topic],
        "tip": tips[first],
        "tip_2": tips[first - 1],
        "tip_3": tips[first - 2],
        "claim": claims[other],
        "claim_2": claims[other - 1],
        "role": words.ROLE_PHRASES[language][facts.author_industry][facts.author_role],
        "n": str(3 + int(draw() * 10)),
    }


def _text(parts: list[str], facts: EntityFacts, draw: Draw, language: str) -> str:
    """Write the parts in the order tone, more, quality; a part that repeats another one is left out."""
    levels = {"tone": facts.tone, "more": facts.tone, "quality": facts.quality}
    order = sorted(parts, key=["tone", "more", "quality"].index)
    slots = _slots(facts, draw, language)
    texts = [sentence(_GRAMMARS[language].write(f"{part}_{levels[part]}", slots, draw)) for part in order]
    return " ".join(dict.fromkeys(texts))


def _author(facts: EntityFacts, draw: Draw, language: str) -> str:
    roles = words.ROLE_PHRASES[language][facts.author_industry][facts.author_role]
    return f"{facts.author}, {roles[int(draw() * len(roles))]}"
