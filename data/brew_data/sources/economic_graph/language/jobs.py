"""Texts of jobs and of search results: title, place, and a description that says who hires, what for and how well.

The kind of employer and the quality of an offer (pay and benefits) are in the description only, in words. Its longest
form says who hires, the tasks, the skills, the experience, the place, and what the employer offers; a shorter one
leaves out the middle.
"""

from collections.abc import Mapping

from brew_data.sources.economic_graph import vocabulary as words
from brew_data.sources.economic_graph.facts import EntityFacts
from brew_data.sources.economic_graph.language.grammar import Draw, Facts, Grammar, sentence
from brew_data.sources.economic_graph.language.titles import ROLES_WITH_ARTICLE, position_title

__all__ = ["job", "search_result"]

# `employer_i` speaks for EMPLOYERS[i], `offer_i` for quality i, `level_i` for SENIORITIES[i].
_RULES: dict[str, Mapping[str, tuple[str, ...]]] = {}
_RULES["en"] = {
    "employer_0": (
        "{company} is a young startup and needs {a_role}.",
        "Eleven people, fresh seed money, and a seat for {a_role}.",
        "Join our founders before the series A as {a_role}.",
        "Day one of a startup: {role} with equity.",
    ),
    "employer_1": (
        "A listed group with offices in 40 countries hires {a_role}.",
        "{company} is a global corporation; {place} needs {a_role}.",
        "Our group of 12,000 people adds {a_role}.",
        "Work for a market leader as {a_role}.",
    ),
    "employer_2": (
        "Our clients need {a_role}.",
        "You join {company} as a consultant and work on client projects.",
        "Consulting firm staffs {place}: {role}.",
        "A new client every year, as {a_role} on mandates.",
    ),
    "employer_3": (
        "A public employer hires {a_role}.",
        "The city runs {place} and needs {a_role}.",
        "Our non-profit looks for {a_role}.",
        "Civil service post for {a_role} with a pension.",
    ),
    "tasks": ("You {duty}.", "Your week: {duty}.", "In this role you {duty}.", "The job: {duty}."),
    "skills": (
        "Daily work with {skills}.",
        "You know {skills}.",
        "Must have: {skills}.",
        "We work with {skills}.",
        "You are good at {skills}.",
    ),
    "level_0": ("No experience needed.", "Ideal right after a degree in {degree}.", "We train you from day one."),
    "level_1": ("Two to four years in {field} are enough.", "Some years of practice help.", "You work on your own."),
    "level_2": ("Six years or more in {field}.", "You have seen hard cases.", "Juniors will ask you first."),
    "level_3": ("You guide a team of four.", "You set the standard for the team.", "You plan the work of others."),
    "level_4": ("You own the budget and the strategy.", "You report to the board.", "Three teams report to you."),
    "place": ("Based in {city}.", "Office in {city}, near the station.", "Two days a week in {city}."),
    "remote": ("Fully remote.", "Work from anywhere.", "Home office every day, meetings in {city} twice a year."),
    "offer_3": (
        "Pay: {pay}k, 30 days off, paid training.",
        "Salary {pay}k plus bonus, four-day week.",
        "We pay {pay}k and answer within five days.",
    ),
    "offer_2": (
        "28 days of vacation and a training budget.",
        "Flexible hours and a paid pension plan.",
        "Clear pay band in the first call.",
    ),
    "offer_1": ("Competitive salary.", "Usual benefits.", "Pay depends on experience.", "Fruit basket included."),
    "offer_0": (
        "Great opportunity, apply NOW!!",
        "Wear many hats in a fast-paced family!",
        "Unpaid trial week, then we see!",
        "Work hard, play hard!!!",
    ),
}
_RULES["de"] = {
    "employer_0": (
        "Junges Startup sucht Verstärkung: {role}.",
        "{company} ist ein Gründerteam mit frischem Kapital.",
        "Elf Leute, flache Hierarchie, Firmenanteile für alle.",
    ),
    "employer_1": (
        "Börsennotierter Konzern stellt ein: {role}.",
        "{company} ist Weltmarktführer mit 12.000 Mitarbeitern.",
        "Arbeiten im Konzern, in 40 Ländern zu Hause.",
    ),
    "employer_2": (
        "Beratungshaus sucht für Kundenprojekte: {role}.",
        "Bei {company} arbeiten Sie direkt beim Kunden.",
        "Jedes Jahr ein neues Mandat als {role}.",
    ),
    "employer_3": (
        "Die Stadt sucht im öffentlichen Dienst: {role}.",
        "Gemeinnütziger Träger stellt ein: {role}.",
        "Sicherer Arbeitsplatz nach Tarif im öffentlichen Dienst.",
    ),
    "tasks": ("Aufgaben: {duty}.", "Ihr Alltag: {duty}.", "Das erwartet Sie: {duty}."),
    "skills": ("Sie kennen {skills}.", "Wichtig: {skills}.", "Wir arbeiten mit {skills}.", "Gefragt: {skills}."),
    "level_0": ("Auch für Berufseinsteiger.", "Direkt nach dem Abschluss in {degree}."),
    "level_1": ("Zwei bis vier Jahre Praxis genügen.", "Erste Erfahrung im Beruf."),
    "level_2": ("Mindestens sechs Jahre Erfahrung.", "Sie beraten jüngere Kollegen."),
    "level_3": ("Sie führen ein Team von vier Leuten.", "Sie planen die Arbeit anderer."),
    "level_4": ("Sie verantworten Budget und Strategie.", "Sie berichten an den Vorstand."),
    "place": ("Arbeitsort {city}.", "Büro in {city}, nahe am Bahnhof."),
    "remote": ("Komplett im Homeoffice.", "Arbeiten von überall."),
    "offer_3": ("Gehalt: {pay} Tsd. Euro, 30 Tage Urlaub.", "Wir zahlen {pay} Tsd. Euro plus Bonus, Viertagewoche."),
    "offer_2": ("28 Urlaubstage und Weiterbildung.", "Flexible Zeiten und Betriebsrente."),
    "offer_1": ("Marktübliches Gehalt.", "Obstkorb inklusive.", "Gehalt nach Erfahrung."),
    "offer_0": ("Tolle Chance, JETZT bewerben!!", "Wir sind eine Familie mit viel Tempo!", "Unbezahlte Probewoche!"),
}
_RULES["fr"] = {
    "employer_0": (
        "Jeune startup cherche : {role}.",
        "{company} est une équipe fondatrice de onze personnes.",
        "Rejoignez-nous avant la série A, avec des parts pour tous.",
    ),
    "employer_1": (
        "Groupe coté, présent dans 40 pays, recrute : {role}.",
        "{company} est un leader mondial de 12 000 salariés.",
        "Travaillez dans un grand groupe comme {role}.",
    ),
    "employer_2": (
        "Cabinet de conseil cherche pour ses clients : {role}.",
        "Chez {company}, vous travaillez en mission chez le client.",
        "Chaque année une nouvelle mission comme {role}.",
    ),
    "employer_3": (
        "La ville recrute dans la fonction publique : {role}.",
        "Association à but non lucratif cherche : {role}.",
        "Poste public avec sécurité de l'emploi.",
    ),
    "tasks": ("Missions : {duty}.", "Votre quotidien : {duty}.", "Au programme : {duty}."),
    "skills": ("Vous maîtrisez {skills}.", "Indispensable : {skills}.", "Compétences : {skills}."),
    "level_0": ("Débutants bienvenus.", "Idéal après des études : {degree}."),
    "level_1": ("Deux à quatre ans de pratique suffisent.", "Première expérience réussie."),
    "level_2": ("Six ans d'expérience ou plus.", "Vous conseillez les plus jeunes."),
    "level_3": ("Vous guidez une équipe de quatre.", "Vous planifiez le travail des autres."),
    "level_4": ("Vous portez budget et stratégie.", "Vous rapportez au comité de direction."),
    "place": ("Poste basé à {city}.", "Bureau à {city}, près de la gare."),
    "remote": ("Télétravail complet.", "Travail à distance."),
    "offer_3": ("Salaire : {pay} k€, 30 jours de congés.", "Nous payons {pay} k€ plus prime, semaine de quatre jours."),
    "offer_2": ("28 jours de congés et formation.", "Horaires souples et bonne mutuelle."),
    "offer_1": ("Salaire selon profil.", "Avantages habituels.", "Paniers de fruits."),
    "offer_0": ("Super opportunité, postulez VITE !!", "Une famille qui bouge !", "Semaine d'essai non payée !"),
}
_RULES["es"] = {
    "employer_0": (
        "Startup joven busca: {role}.",
        "{company} es un equipo fundador de once personas.",
        "Únete antes de la serie A, con acciones para todos.",
    ),
    "employer_1": (
        "Grupo cotizado, presente en 40 países, contrata: {role}.",
        "{company} es una multinacional de 12.000 personas.",
        "Trabaja en un líder mundial como {role}.",
    ),
    "employer_2": (
        "Consultora busca para sus clientes: {role}.",
        "En {company} trabajas en proyectos de clientes.",
        "Cada año un cliente nuevo como {role}.",
    ),
    "employer_3": (
        "El ayuntamiento ofrece un puesto público: {role}.",
        "ONG sin ánimo de lucro busca: {role}.",
        "Plaza pública con estabilidad y pensión.",
    ),
    "tasks": ("Tareas: {duty}.", "Tu día a día: {duty}.", "Funciones: {duty}."),
    "skills": ("Dominas {skills}.", "Imprescindible: {skills}.", "Trabajamos con {skills}."),
    "level_0": ("Sin experiencia previa.", "Ideal tras estudiar {degree}."),
    "level_1": ("De dos a cuatro años de práctica.", "Con algo de experiencia."),
    "level_2": ("Seis años de experiencia o más.", "Orientas a los más jóvenes."),
    "level_3": ("Guías a un equipo de cuatro.", "Planificas el trabajo de otros."),
    "level_4": ("Llevas presupuesto y estrategia.", "Reportas al consejo."),
    "place": ("Puesto en {city}.", "Oficina en {city}, cerca de la estación."),
    "remote": ("Totalmente remoto.", "Trabajo a distancia."),
    "offer_3": ("Sueldo: {pay} mil euros, 30 días libres.", "Pagamos {pay} mil más bono, semana de cuatro días."),
    "offer_2": ("28 días de vacaciones y formación.", "Horario flexible y seguro médico."),
    "offer_1": ("Salario competitivo.", "Beneficios habituales.", "Salario según experiencia."),
    "offer_0": (
        "¡Gran oportunidad, apúntate YA!!",
        "¡Somos una familia con ritmo!",
        "¡Semana de prueba sin pago!",
    ),
}
_RULES["pt"] = {
    "employer_0": (
        "Startup jovem procura: {role}.",
        "{company} é uma equipe fundadora de onze pessoas.",
        "Entre antes da série A, com ações para todos.",
    ),
    "employer_1": (
        "Grupo listado, presente em 40 países, contrata: {role}.",
        "{company} é uma multinacional de 12 mil pessoas.",
        "Trabalhe em uma líder mundial como {role}.",
    ),
    "employer_2": (
        "Consultoria procura para seus clientes: {role}.",
        "Na {company} você trabalha em projetos de clientes.",
        "A cada ano um novo cliente como {role}.",
    ),
    "employer_3": (
        "A prefeitura abre vaga pública: {role}.",
        "ONG sem fins lucrativos procura: {role}.",
        "Cargo público com estabilidade.",
    ),
    "tasks": ("Tarefas: {duty}.", "Seu dia a dia: {duty}.", "Atividades: {duty}."),
    "skills": ("Você domina {skills}.", "Essencial: {skills}.", "Trabalhamos com {skills}."),
    "level_0": ("Sem experiência prévia.", "Ideal após a faculdade de {degree}."),
    "level_1": ("De dois a quatro anos de prática.", "Com alguma experiência."),
    "level_2": ("Seis anos de experiência ou mais.", "Você orienta os mais novos."),
    "level_3": ("Você guia uma equipe de quatro.", "Você planeja o trabalho dos outros."),
    "level_4": ("Você cuida do orçamento e da estratégia.", "Você responde à diretoria."),
    "place": ("Vaga em {city}.", "Escritório em {city}, perto do metrô."),
    "remote": ("Totalmente remoto.", "Trabalho de qualquer lugar."),
    "offer_3": ("Salário: {pay} mil, 30 dias de férias.", "Pagamos {pay} mil mais bônus, semana de quatro dias."),
    "offer_2": ("28 dias de férias e cursos.", "Horário flexível e plano de saúde."),
    "offer_1": ("Salário compatível com o mercado.", "Benefícios usuais.", "Salário a combinar."),
    "offer_0": (
        "Grande chance, inscreva-se JÁ!!",
        "Somos uma família com ritmo!",
        "Semana de teste sem pagamento!",
    ),
}
_GRAMMARS = {language: Grammar(rules) for language, rules in _RULES.items()}
_JOINTS = {"en": " and ", "de": " und ", "fr": ", ", "es": ", ", "pt": ", "}
_REMOTE = {"en": "remote", "de": "Homeoffice", "fr": "télétravail", "es": "remoto", "pt": "remoto"}
# Sentences of a description, in their order, with the length (1: the shortest description) from which they are there.
_ORDER = (("employer", 1), ("tasks", 4), ("skills", 2), ("level", 5), ("place", 6), ("offer", 3))
_USUAL_SENTENCES = 3

_QUERIES = {
    "en": ("{role}", "{role} {where}", "{role} jobs {where}",
           "{where} {role}", "jobs for {a_role}", "{role} vacancies {where}"),
    "de": ("{role}", "{role} {where}", "Stellen {role} {where}", "Jobs als {role} {where}"),
    "fr": ("{role}", "{role} {where}", "emploi {role} {where}", "offres {role}"),
    "es": ("{role}", "{role} {where}", "empleo {role} {where}", "trabajo de {role}"),
    "pt": ("{role}", "{role} {where}", "vagas {role} {where}", "emprego de {role}"),
}  # fmt: skip
_QUERY_GRAMMARS = {language: Grammar({"query": queries}) for language, queries in _QUERIES.items()}


def job(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write title, company, location and description of a job.

    Args:
        facts: Industry, role, seniority, skills, city, remote, company, employer, quality.
        draw: Uniform numbers.
        language: One of LANGUAGES.
        scale: 1 for three sentences in the description; there are at least one and at most six.
    """
    industry, city = facts.industry, facts.city
    skills = [words.SKILL_PHRASES[language][industry][skill] for skill in facts.skills[:3]]
    names = [phrases[int(draw() * len(phrases))] for phrases in skills]
    pay = 30 + 20 * facts.seniority + int(draw() * 12)
    slots: Facts = {
        "role": words.ROLE_PHRASES[language][industry][facts.role],
        "a_role": ROLES_WITH_ARTICLE[industry][facts.role],
        "field": words.FIELDS[language][industry],
        "duty": words.DUTIES[language][industry],
        "degree": words.DEGREES[language][industry],
        "place": words.PLACES[industry],
        "company": facts.company,
        "city": words.CITY_PHRASES[language][city],
        "skills": ", ".join(names[:-1]) + _JOINTS[language] + names[-1] if len(names) > 1 else "".join(names),
        "pay": f"{pay}-{pay + 8}",
    }
    rules = {
        "employer": f"employer_{facts.employer}",
        "tasks": "tasks",
        "skills": "skills" if names else "tasks",
        "level": f"level_{facts.seniority}",
        "place": "remote" if facts.remote else "place",
        "offer": f"offer_{facts.quality}",
    }
    length = max(1, round(_USUAL_SENTENCES * scale))
    grammar = _GRAMMARS[language]
    parts = [sentence(grammar.write(rules[part], slots, draw)) for part, start in _ORDER if start <= length]
    name = words.CITY_PHRASES[language][city][0]
    return {
        "title": position_title(draw, language, industry, facts.role, facts.seniority),
        "company": facts.company,
        "location": f"{name} ({_REMOTE[language]})" if facts.remote else name,
        "description": " ".join(parts),
    }


def search_result(facts: EntityFacts, draw: Draw, language: str, scale: float) -> dict[str, str]:
    """Write a job as `job` does, and the `query` that found it, from query_role and query_city."""
    places = words.CITY_PHRASES[language][facts.query_city] if facts.query_city >= 0 else ("",)
    slots: Facts = {
        "role": words.ROLE_PHRASES[language][facts.industry][facts.query_role],
        "a_role": ROLES_WITH_ARTICLE[facts.industry][facts.query_role],
        "where": tuple(place.removeprefix("the ") for place in places),
    }
    query = _QUERY_GRAMMARS[language].write("query", slots, draw)
    return {"query": " ".join(query.lower().split()), **job(facts, draw, language, scale)}
