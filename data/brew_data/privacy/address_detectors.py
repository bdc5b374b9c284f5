"""Detectors of postal addresses, in the forms of several countries.

The words for streets decide. Words that are rarely anything else (`Street`, `straße`, `rue`, `Calle`) need a number and
a name. Others (`Place`, `Court`, `Square`) also need a postcode, or words such as `Address:` before them. A city with
its postcode alone is kept.

The patterns begin with the number where they can, because few texts have many.
"""

import re

from brew_data.privacy.detector import ADDRESS, Detector, Span

__all__ = ["ADDRESS_DETECTORS"]

_NAME = r"(?![a-z\u00df-\u00f6\u00f8-\u00ff])[^\W\d_][\w'\u2019-]{0,24}"  # starts with no small letter
_ANY = r"[^\W\d_][\w'\u2019-]{0,24}"
_PARTICLE = (
    r"(?:(?i:de la|de los|de las|de l['\u2019]|des|del|della|delle|de|du|d['\u2019]|les|los|las|la|le|l['\u2019]|dos"
    r"|das|do|da|di|of the|of|von der|von|van der|van|der|den|dem|zum|zur|y|e) ?)?"
)
_UNIT_WORDS = (
    "apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|building|bldg|level|piso|puerta|pta|escalera|esc|planta|portal"
    "|bloque|andar|apto|bloco|sala|loja|lote|conj|b\u00e2timent|b\u00e2t|appartement|appt|porte|wohnung|whg|etage|haus"
    "|aufgang"
)
_SIDE = (
    "izquierda|izqda|izda|izq|derecha|dcha|drcha|dcho|direito|dto|esquerdo|esq|frente|fte|centro|tr\u00e1s|a|b|c|d|e|f"
)
_UNIT = (  # up to three, as in `, 3º B` and `, Suite 4, Floor 2`
    rf"(?:,? (?:(?i:{_UNIT_WORDS})(?:\.? |[.#]|(?=\d))[ #]{{0,2}}(?:[A-Za-z]?\d\w{{0,4}}|[A-Za-z])"
    r"|#\w{1,4}(?:-\d{1,4})?|\d{1,2}(?:st|nd|rd|th) (?i:floor)"
    rf"|\d{{1,2}}\.?[\u00ba\u00aa\u00b0](?: (?i:andar|piso|planta))?(?:,? ?(?i:{_SIDE})(?!\w))?"
    r"|\d{1,2}(?:e|er|\u00e8me) \u00e9tage|\d{1,2}\. (?:OG|Stock|Etage)|EG|Hinterhaus|(?i:r/c|bajo|\u00e1tico)"
    r")(?!\w)(?:\.(?=,))?){0,3}"
)
# In the name of a town: `Frankfurt am Main`, `Palma de Mallorca`, `Neuilly sur Seine`
_IN_NAME = (
    r"(?:(?:de la|de los|de las|de|del|do|da|dos|das|la|el|sur|upon|am(?= (?:Main|Rhein|Neckar|Inn|See|Harz)\b)"
    r"|an der(?= (?:Donau|Oder|Ruhr|Saale|Weser|Elbe|Lahn)\b)|im(?= (?:Breisgau|Allg\u00e4u|Taunus)\b)|ob der"
    r"(?= Tauber)) )?"
)
_COUNTRY = (
    r"(?:,? (?:USA|US|UK|United States|United Kingdom|England|Scotland|Wales|Ireland|Canada|Australia|Germany"
    r"|Deutschland|France|Spain|Espa\u00f1a|Italy|Italia|Netherlands|Nederland|Austria|\u00d6sterreich|Switzerland"
    r"|Schweiz|Poland|Polska|Sweden|Sverige|Denmark|Danmark|Norway|Norge|Portugal|Brazil|Brasil|India|Singapore"
    r"|Mexico|M\u00e9xico)\b)?"
)
_POSTCODE = (  # not the number of anything else: neither a year nor so many thousands
    r"(?:[A-Z]{1,2}-)?(?!\d\d000\b)\d{5}(?:-\d{3,4})?|(?:NSW|VIC|QLD|WA|SA|TAS|ACT|NT) \d{4}"
    r"|\d{4}-\d{3}|(?!(?:19|20)\d\d\b)\d{4}(?: [A-Z]{2})?|\d{3} \d{2,3}|(?!\d{3}000\b)\d{6}|\d\d-\d{3}"
    r"|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|[A-Z]\d[\dW] [A-Z\d]{4}"
)


def _place(name: str, least: int = 0) -> str:
    """City, region and postcode after a street, in either order, and the country; `least` words before the postcode."""
    words = rf"(?:(?:,| [-\u2013])? {_IN_NAME}{name}\.?){{{least},6}}?"
    return (
        rf"{words}(?:,| [-\u2013]| in| \u00e0| en| em)? (?:(?:CEP|C\.?P\.?|PLZ):? )?"
        rf"(?:{_POSTCODE}|\d\d000(?= {_NAME}))(?!\w)"
        rf"(?: {name}(?:[ -]{_IN_NAME}{name}){{0,2}})?(?: (?:CEDEX|Cedex)(?: \d{{1,2}})?)?"
        rf"(?: [-\u2013] [A-Z]{{2}}\b)?{_COUNTRY}"
    )


_CITY_AT_END = (
    rf"(?:,(?: in| \u00e0| en| em)?| in| \u00e0| en| em) {_NAME}(?: {_IN_NAME}{_NAME}){{0,3}}"
    r"(?:(?:(?<=Dublin)|(?<=Paris)|(?<=Lyon)|(?<=Wien)|(?<=Praha)) \d{1,2}(?:er|e)?)?"
    rf"(?:, {_NAME}(?: {_NAME})?){{0,2}}"
    r"(?: [-\u2013] [A-Z]{2}\b)?(?= ?[;)!?]| [-\u2013|]|, [a-z\u00df-\u00f6\u00f8-\u00ff]|\.(?: |$)|$)"
)
_PLACE = re.compile(rf"{_UNIT}{_place(_NAME)}")
_TAIL = re.compile(rf"{_UNIT}(?:{_place(_NAME)}|{_CITY_AT_END})?")
_PLACE_AFTER_COMMA = re.compile(rf"{_UNIT}(?=,){_place(_NAME)}")
_CITY_AFTER_COMMA = re.compile(rf"{_UNIT}(?=,){_CITY_AT_END}")
_ANY_PLACE_AFTER_COMMA = re.compile(rf"{_UNIT}(?=,){_place(_ANY, least=1)}")

# Words before an address that say what it is
_NOUN_CUE = (
    r"\b(?:(?:my|home|postal|mailing|our|office|street|delivery|work) address|address(?= ?:)"
    r"|(?:post|wohn|privat|liefer|b\u00fcro|firmen|rechnungs)?(?:adresse|anschrift)"
    r"|direcci[o\u00f3]n(?= ?:| es | postal| particular)|endere[c\u00e7]o|morada(?: ?:| \u00e9)|indirizzo|domicilio"
    r"|domic\u00edlio)"
    r"(?: (?:postale?|privada|personal|particular|profissional|professionnelle|personnelle))?"
    r"(?: ?:|,)? (?:(?:is|at|est|ist|es|\u00e9|lautet):? )?(?:(?:le|la|na|no|o|a) )?"
)
_CUE = re.compile(
    rf"{_NOUN_CUE}$"
    r"|\b(?P<verb>live[sd]? at|living at|resid(?:e[sd]?|ing) at|located at|based at|office (?:is )?at|home is(?: at)?"
    r"|(?:visit|find|meet|see) (?:me|us) at|(?:mail|post|ship|deliver|write|letters|post(?:cards)?|parcels) to"
    r"|stop by|drop (?:by|in)(?: at)?|come to|send \w{1,12}(?: \w{1,12})? to"
    r"|wohnhaft in|wohn(?:e|en|t) (?:in|im|am|an)|zu ?hause (?:in|im|am)|(?:schick|send)\w{1,4}(?: \w{1,12}){0,2} an"
    r"|zu finden (?:in|im|am)|sitz(?:en|t)? (?:in|im|am)"
    r"|habite(?: au)?|domicili\u00e9e? au|demeurant(?: au)?|r\u00e9side au|trouve(?:r|z)?(?: \w{1,8})? au|bureau au"
    r"|(?:\u00e9cri(?:re|vez)|courrier|envoyez|envoyer)(?: \w{1,12}){0,2} au"
    r"|(?:vivo|vivimos|resido|estoy|estamos|oficina|casa) en|(?:escr\u00edb|env\u00ed|mand)\w{1,6}(?: \w{1,12}){0,2} a"
    r"|(?:moro|moramos|resido|vivo|estou|escrit\u00f3rio|casa|fico|ficamos) (?:na|no|em)"
    r"|(?:escrev|envi|mand)\w{1,4}(?: \w{1,12}){0,2} para)(?: der| den| dem| la| le| el| \u00e0| a| o)? $",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)\d\d,? ")
_TIME_WORD = re.compile(r"\b(?:in|since|from|of|until|by|year) $", re.IGNORECASE)
_UNIT_BEFORE = re.compile(rf"\b(?:{_UNIT_WORDS}|house|plot|door)\.? (?:no\.? )?#?\w{{1,5}}, ?$", re.IGNORECASE)
_BEFORE = 40  # characters that are searched before the number


def _start(text: str, start: int) -> int | None:
    """Return the start of an address whose number is at `start`, with the flat before it; None: another number."""
    before = max(0, start - _BEFORE)
    if _YEAR.match(text, start) and _TIME_WORD.search(text, before, start):
        return None
    unit = _UNIT_BEFORE.search(text, before, start)
    return unit.start() if unit else start


def _is_capital(name: str) -> bool:
    return not any(word[0].islower() for word in name.split())


_ALONE = r"\d(?<![\w.,/$\u20ac\u00a3+-].)"  # the first digit of a number

# `12 Oak Street`
_ENGLISH = re.compile(
    rf"{_ALONE}\d{{0,4}}[A-Za-z]?(?:[-/]\d{{1,4}}[A-Za-z]?)?,? (?:(?:North|South|East|West|[NS][EW]?|[EW])\.? )?"
    rf"(?P<name>(?:{_ANY}\.? |\d{{1,3}}(?:st|nd|rd|th) ){{1,4}}?)"
    r"(?:(?P<strong>(?i:street|avenue|road|lane|boulevard|crescent|mews|parkway)\b"
    r"|(?i:st|ave|rd|ln|blvd|pkwy|cres|pkway)\b\.?+)"
    r"|(?P<usual>(?i:drive|way|terrace)\b|(?i:dr|ter)\b\.?+)"
    r"|(?i:court|place|square|close|highway|gardens|grove|row|hill|quay|circle|park|walk|view|rise|trail|alley|path"
    r"|heights|house|green|wharf|yard|gate|parade|esplanade|plaza|loop|crossing|ridge|vale|broadway|embankment)\b"
    r"|(?i:ct|pl|sq|hwy|cir|trl|gdns)\b\.?+)"
)
_AT_END = re.compile(r"$|[,;:!?)]|\.(?: |$)")  # otherwise `Drive` is a verb, and `Way` a noun
# `12 Wall Street banks` and the title `21 Jump Street (2012)` are not addresses.
_NOUN = re.compile(
    r" (?!(?:in|and|or|near|opposite|next|is|at|for|from|on|by|to|until|since|if|with)\b)[a-z]| \((?:19|20)\d\d"
)


def _english(match: re.Match[str]) -> Span | None:
    text, name, end = match.string, match["name"], match.end()
    if (start := _start(text, match.start())) is None:
        return None
    cue = _CUE.search(text, max(0, start - _BEFORE), start)
    if not _is_capital(name):
        is_address = match["strong"] and name.count(" ") <= 2 and _ANY_PLACE_AFTER_COMMA.match(text, end)
        if place := is_address or (cue is not None and cue["verb"] is None and _TAIL.match(text, end)):
            return start, place.end()
        return None
    if cue or (match["strong"] and not _NOUN.match(text, end)) or (match["usual"] and _AT_END.match(text, end)):
        tail = _TAIL.match(text, end)
    else:
        tail = _PLACE_AFTER_COMMA.match(text, end) or _CITY_AFTER_COMMA.match(text, end)
    return (start, tail.end()) if tail else None


# `12 rue de la Paix`
_FRENCH = re.compile(
    rf"{_ALONE}\d{{0,3}}(?: ?(?:bis|ter|quater)\b| ?[A-D]\b)?,? "
    r"(?:(?P<strong>(?i:rue|avenue|av\.|ave\.?|boulevard|boul\.|bd\.?|bld\.?|impasse|quai|chemin|ch\.|all\u00e9es?"
    r"|faubourg|ruelle|venelle|rond-point))"
    r"|(?i:place|pl\.|cours|route|rte|square|villa|passage|sentier|esplanade|promenade|mont\u00e9e|r\u00e9sidence"
    r"|lotissement|hameau|cit\u00e9|parvis|voie|traverse|chauss\u00e9e|clos|mail|galerie|lieu-dit)) "
    rf"(?P<name>{_PARTICLE}{_ANY}(?:[ -]{_PARTICLE}{_NAME}){{0,4}})"
)


def _french(match: re.Match[str]) -> Span | None:
    text, end = match.string, match.end()
    start = _start(text, match.start())
    if start is None:
        return None
    cue = _CUE.search(text, max(0, start - _BEFORE), start)
    is_address = cue is not None or (match["strong"] and not match["name"].islower())
    tail = (_TAIL if is_address else _PLACE if match["strong"] else _PLACE_AFTER_COMMA).match(text, end)
    return (start, tail.end()) if tail else None


# The number last: `Hauptstraße 12`, `Berliner Str. 5`, `Calle de la Princesa 12`, `ul. Marszałkowska 3/5`
_NUMBER = r"\d\d{0,3}(?: ?[a-zA-Z]\b)?(?:[-/]\d{1,4}[A-Za-z]?){0,2}(?!\w|[.,]\d(?!\d?[\u00ba\u00aa\u00b0]))"
_JOINED = re.compile(
    r"(?<!\w)[^\W\d_][\w-]{1,30}?(?:(?<=\w) )?"
    rf"(?:(?P<strong>(?i:stra\u00dfe|strasse|str\.|gasse|allee|straat|laan|gracht|kade|gatan|v\u00e4gen))"
    rf"|(?i:weg|platz|ring|damm|ufer|steig|plein|gade|vej))\.? ?{_NUMBER}"
)
_PREFIXED = re.compile(
    r"(?<!\w)(?:(?P<strong>(?i:calle|c/|carrer|avenida|avda\.?|av\.|avinguda|rua|travessa|trav\.|pra\u00e7a|rambla|viale"
    r"|strada|ul\.|ulica|\u0443\u043b\.|\u0443\u043b\u0438\u0446\u0430|paseo|pza\.|glorieta|calzada|carretera|ctra\."
    r"|traves\u00eda|callej\u00f3n|estrada|rodovia|cal\u00e7ada|beco|azinhaga|corso|piazza))"
    r"|(?i:r\.|largo|plaza|pl\.|camino|alameda|ronda|pasaje|via|v\u00eda|rotunda|bairro|urbaniza\u00e7\u00e3o|stra\u00dfe"
    r"|platz|allee))"
    rf" ?{_PARTICLE}(?:\d{{1,2}}\.? (?:de )?)?{_NAME}\.?(?: {_PARTICLE}{_NAME}\.?){{0,4}},? "
    rf"(?:(?i:n\.?[\u00ba\u00b0o]|nr|n\u00famero|n\u00fam|num|\u0434)\.? ?)?{_NUMBER}"
)
_PREFIXED_ALONE = re.compile(  # `Gran Vía 28`, `Calle 45 # 12-30`, `Calle Mayor s/n`
    r"(?<!\w)(?:(?i:gran v\u00eda),? (?:(?i:n\.?[\u00ba\u00b0o])\.? ?)?\d{1,3}(?!\w|[.,]\d)"
    r"|(?i:calle|carrera|cra\.?|cl\.?|avenida|av\.?|transversal|diagonal) \d{1,3} ?[A-Za-z]?(?: (?i:bis|sur|norte))? ?"
    r"(?:#|(?i:n[\u00ba\u00b0o])\.?) ?\d{1,3}[A-Za-z]? ?-? ?\d{1,3}(?!\w)"
    rf"|(?i:calle|c/|avenida|avda\.?|av\.|plaza|rua|largo) ?{_PARTICLE}{_NAME}(?: {_PARTICLE}{_NAME}){{0,3}},? "
    r"(?i:s/n)(?!\w))"
)
_LAST = re.compile(_NUMBER)
_CUE_AND_NAME = re.compile(
    rf"(?i:{_NOUN_CUE})(?P<noun>{_ANY}(?: {_ANY}){{0,4}}),? $"
    r"|\b(?i:wohn(?:e|en|t)|zu ?hause|wohnhaft|vivo|vivimos|moro|moramos|resido)"
    rf"(?: (?:in|en|na|no|em|der|dem|den|la|el))*+ (?P<name>{_NAME}(?: {_PARTICLE}{_NAME}){{0,3}}),? $"
)


def _with_tail(match: re.Match[str]) -> Span:
    tail = _TAIL.match(match.string, match.end())
    return match.start(), tail.end() if tail else match.end()


def _street_with_number(match: re.Match[str]) -> Span | None:
    """Accept a street; one that could be other words, as `Largo do Carmo 5`, only with a cue or a postcode."""
    text, start, end = match.string, match.start(), match.end()
    if match["strong"] or _CUE.search(text, max(0, start - _BEFORE), start):
        return _with_tail(match)
    place = _PLACE_AFTER_COMMA.match(text, end)
    return (start, place.end()) if place else None


def _after_noun_cue(match: re.Match[str]) -> Span | None:
    before = _CUE_AND_NAME.search(match.string, max(0, match.start() - 2 * _BEFORE), match.start())
    return (before.start("noun" if before["noun"] else "name"), _with_tail(match)[1]) if before else None


# `Am Markt 3, 10115 Berlin`: any name, because postcode and city follow at once
_BEFORE_POSTCODE = re.compile(
    rf"{_NUMBER}{_UNIT}(?:, ?(?:{_POSTCODE})| [-\u2013/|] (?:(?!\d\d000\b)\d{{5}}|\d{{4}}-\d{{3}}))(?!\w) {_NAME}"
    rf"(?:[ -]{_IN_NAME}{_NAME}){{0,2}}{_COUNTRY}"
)
# `12 Les Jardins, 13001 Marseille`, `3 The Maltings, York YO1 7AB`
_FIRST_BEFORE_POSTCODE = re.compile(
    rf"(?!(?:19|20)\d\d\b){_ALONE}\d{{0,3}}[A-Za-z]?,? {_NAME}(?: {_PARTICLE}{_NAME}){{0,4}}{_UNIT}"
    rf"(?:, ?(?:(?!\d\d000\b)\d{{5}}|\d{{4}}-\d{{3}})(?!\w) {_NAME}(?:[ -]{_IN_NAME}{_NAME}){{0,2}}"
    rf"|(?:, {_NAME}(?: {_NAME}){{0,2}}){{1,2}},? (?:[A-Z]{{1,2}}\d[A-Z\d]? ?\d[A-Z]{{2}}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
    rf"|[A-Z]{{2}} \d{{5}})(?!\w)|(?:, {_NAME}(?: {_NAME}){{0,2}}){{1,3}}(?: -)? (?!\d{{3}}000)[1-9]\d\d ?\d{{3}}(?!\w)"
    rf"){_COUNTRY}"
)
_NAME_BEFORE = re.compile(rf"(?<!\w){_NAME}(?: {_PARTICLE}{_NAME}){{0,3}},? $")


def _before_postcode(match: re.Match[str]) -> Span | None:
    names = _NAME_BEFORE.search(match.string, max(0, match.start() - 80), match.start())
    return (names.start(), match.end()) if names else None


_BOX = re.compile(
    r"(?<!\w)(?i:p\. ?o\. ?box|po box|postfach|apartado(?: de correos)?|casilla)\.? (?i:no\.? )?\d{1,6}\b"
)
_HAN, _KANA = r"[\u4e00-\u9fff]", r"[\u3040-\u30ff\u4e00-\u9fff]"
_EAST_ASIAN = re.compile(  # Japanese by postcode, Japanese by ward, Chinese by street
    r"\u3012 ?\d{3}-?\d{4}(?:[ \u3000]?[^\s,.;:()\u3002]{1,60})?"
    rf"|{_HAN}{{1,4}}[\u90fd\u9053\u5e9c\u770c]{_KANA}{{1,12}}?[\u533a\u5e02\u753a\u6751]{_KANA}{{0,15}}\d{{1,4}}"
    r"(?:(?:-|\u4e01\u76ee|\u756a\u5730?|\u53f7)\d{0,4}){0,3}"
    rf"|{_HAN}{{2,20}}[\u8def\u8857\u5df7\u5f04]\d{{1,5}}[\u53f7\u865f](?:[\u4e00-\u9fff\d]{{0,20}}[\u5ba4\u697c])?"
)

_JOINED_HINTS = (
    "stra\u00dfe", "strasse", "str.", "gasse", "allee", "straat", "laan", "gracht", "kade", "gatan", "v\u00e4gen",
    "weg", "platz", "ring ", "damm", "ufer", "steig", "plein", "gade", "vej",
)  # fmt: skip
_PREFIXED_HINTS = (
    "calle", "c/", "carrer", "avenida", "avda", "av.", "avinguda", "rua ", "trav", "pra\u00e7a", "rambla", "viale",
    "strada", "ul.", "ulica", "\u0443\u043b", "paseo", "pza", "glorieta", "calzada", "ctra", "callej", "rodovia",
    "cal\u00e7ada", "beco", "azinhaga", "corso", "piazza", "r. ", "largo", "plaza", "pl.", "camino", "alameda", "ronda",
    "pasaje", "via ", "v\u00eda", "rotunda", "bairro", "urbaniza", "stra\u00dfe ", "platz ", "allee ",
)  # fmt: skip
_PREFIXED_ALONE_HINTS = ("gran v\u00eda", "#", "s/n", "no. ", "no ", "n\u00ba")
_CUE_HINTS = (
    "address", "adresse", "anschrift", "direcci", "endere", "morada", "indirizzo", "domic",
    "wohn", "zuhause", "zu hause", "vivo", "vivimos", "moro ", "moramos", "resido",
)  # fmt: skip
_EAST_ASIAN_HINTS = ("\u3012", "\u533a", "\u5e02", "\u753a", "\u6751", "\u53f7", "\u865f")

ADDRESS_DETECTORS = (
    Detector(ADDRESS, _ENGLISH, _english, digits=1),
    Detector(ADDRESS, _FRENCH, _french, digits=1),
    Detector(ADDRESS, _JOINED, _street_with_number, digits=1, hints=_JOINED_HINTS),
    Detector(ADDRESS, _PREFIXED, _street_with_number, digits=1, hints=_PREFIXED_HINTS),
    Detector(ADDRESS, _PREFIXED_ALONE, _with_tail, hints=_PREFIXED_ALONE_HINTS),
    Detector(ADDRESS, _LAST, _after_noun_cue, digits=1, hints=_CUE_HINTS),
    Detector(ADDRESS, _BEFORE_POSTCODE, _before_postcode, digits=5, hints=(",", " - ", " \u2013 ", " / ", " | ")),
    Detector(ADDRESS, _FIRST_BEFORE_POSTCODE, digits=3, hints=(",",)),
    Detector(ADDRESS, _BOX, _with_tail, digits=1, hints=("box", "postfach", "apartado", "casilla")),
    Detector(ADDRESS, _EAST_ASIAN, digits=1, hints=_EAST_ASIAN_HINTS),
)
