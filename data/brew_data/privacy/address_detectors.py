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
    r"(?:(?i:de la|de l['\u2019]|des|del|della|delle|de|du|d['\u2019]|les|la|le|l['\u2019]|dos|das|do|da|di|of the"
    r"|of) ?)?"
)
_UNIT_WORDS = (
    "apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|building|bldg|level|piso|puerta|escalera|andar|apto|bloco|sala"
    "|b\u00e2t|appt|wohnung|etage"
)
_UNIT = (  # one or two, as in `, 3º B` and `, Suite 4, Floor 2`
    rf"(?:,? (?:(?i:{_UNIT_WORDS})(?:[. #]|(?=\d))[ #]{{0,2}}(?:[A-Za-z]?\d\w{{0,4}}|[A-Za-z])"
    r"|#\w{1,4}(?:-\d{1,4})?|\d{1,2}(?:st|nd|rd|th) (?i:floor)"
    r"|\d{1,2}\.?[\u00ba\u00aa\u00b0](?: ?[A-Z]|,? (?i:izq|dcha|dto|esq|frente))?|\d{1,2}e \u00e9tage)(?!\w)\.?){0,2}"
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
    r"|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d"
)


def _place(name: str, least: int = 0) -> str:
    """City, region and postcode after a street, in either order, and the country; `least` words before the postcode."""
    words = rf"(?:(?:,| -)? {name}\.?){{{least},6}}?"
    return rf"{words}(?:,| in| \u00e0| en| em)? (?:CEP:? )?(?:{_POSTCODE})(?!\w)(?: {name}(?: {name})?)?{_COUNTRY}"


_CITY_AT_END = rf"(?:, {_NAME}(?: {_NAME}){{0,2}}){{1,3}}(?= ?[;)!?]|\.(?: |$)|$)"
_TAIL = re.compile(rf"{_UNIT}(?:{_place(_NAME)}|{_CITY_AT_END})?")
_PLACE_AFTER_COMMA = re.compile(rf"{_UNIT}(?=,){_place(_NAME)}")
_ANY_PLACE_AFTER_COMMA = re.compile(rf"{_UNIT}(?=,){_place(_ANY, least=1)}")

# Words before an address that say what it is
_NOUN_CUE = (
    r"\b(?:(?:my|home|postal|mailing|our|office|street) address|address(?= ?:)|(?:post|wohn)?(?:adresse|anschrift)"
    r"|direcci[o\u00f3]n|endere[c\u00e7]o|indirizzo|domicilio)(?: ?:|,)? (?:(?:is|at|est|ist|es|\u00e9):? )?"
)
_CUE = re.compile(
    rf"{_NOUN_CUE}$"
    r"|\b(?P<verb>live[sd]? at|living at|resid(?:e[sd]?|ing) at|located at|based at|office (?:is )?at|home is(?: at)?"
    r"|(?:visit|find|meet|see) (?:me|us) at|(?:mail|post|ship|deliver|write) to|stop by|drop (?:by|in)(?: at)?"
    r"|come to|wohnhaft in|wohne (?:in|im|am)|habite(?: au)?|domicili\u00e9e? au|(?:vivo|resido) en|moro (?:na|no|em)"
    r"|resido (?:na|no|em))(?: der| la| \u00e0)? $",
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
    r"(?:(?P<strong>(?i:street|avenue|road|lane|boulevard|crescent|mews|parkway)\b|(?i:st|ave|rd|ln|blvd|pkwy)\b\.?+)"
    r"|(?P<usual>(?i:drive|way|terrace)\b|(?i:dr)\b\.?+)"
    r"|(?i:court|place|square|close|highway|gardens|grove|row|hill|quay|circle|park|walk|view|rise|trail|alley|path"
    r"|heights|house)\b|(?i:ct|pl|sq|hwy)\b\.?+)"
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
        tail = _PLACE_AFTER_COMMA.match(text, end)
    return (start, tail.end()) if tail else None


# `12 rue de la Paix`
_FRENCH = re.compile(
    rf"{_ALONE}\d{{0,3}}(?: ?(?:bis|ter|quater)\b|[A-D]\b)?,? "
    r"(?:(?P<strong>(?i:rue|avenue|av\.|boulevard|bd\.?|impasse|quai|chemin|all\u00e9e|faubourg))"
    rf"|(?i:place|cours|route|square|villa)) (?P<name>{_PARTICLE}{_ANY}(?:[ -]{_PARTICLE}{_NAME}){{0,3}})"
)


def _french(match: re.Match[str]) -> Span | None:
    text, end = match.string, match.end()
    start = _start(text, match.start())
    if start is None or match["name"].islower():
        return None
    is_address = match["strong"] or _CUE.search(text, max(0, start - _BEFORE), start)
    tail = (_TAIL if is_address else _PLACE_AFTER_COMMA).match(text, end)
    return (start, tail.end()) if tail else None


# The number last: `Hauptstraße 12`, `Berliner Str. 5`, `Calle de la Princesa 12`, `ul. Marszałkowska 3/5`
_NUMBER = r"\d\d{0,3}(?: ?[a-zA-Z]\b)?(?:[-/]\d{1,4}[A-Za-z]?)?(?!\w|[.,]\d)"
_JOINED = re.compile(
    r"(?<!\w)[^\W\d_][\w-]{1,30}?(?:(?<=\w) )?"
    rf"(?:(?P<strong>(?i:stra\u00dfe|strasse|str\.|gasse|allee|straat|laan|gracht|kade|gatan|v\u00e4gen))"
    rf"|(?i:weg|platz|ring|damm|ufer|steig|plein|gade|vej))\.? ?{_NUMBER}"
)
_PREFIXED = re.compile(
    r"(?<!\w)(?i:calle|c/ |carrer|avenida|avda\.?|av\.|rua|travessa|pra\u00e7a|rambla|viale|strada|ul\.|ulica"
    rf"|\u0443\u043b\.|\u0443\u043b\u0438\u0446\u0430) ?{_PARTICLE}{_NAME}\.?(?: {_PARTICLE}{_NAME}\.?){{0,4}},? "
    rf"(?:(?i:n[\u00ba\u00b0o]|nr|\u0434)\.? ?)?{_NUMBER}"
)
_LAST = re.compile(_NUMBER)
_CUE_AND_NAME = re.compile(rf"{_NOUN_CUE}(?P<name>{_ANY}(?: {_ANY}){{0,3}}),? $", re.IGNORECASE)


def _with_tail(match: re.Match[str]) -> Span:
    tail = _TAIL.match(match.string, match.end())
    return match.start(), tail.end() if tail else match.end()


def _joined(match: re.Match[str]) -> Span | None:
    """Accept a street; one such as `Rosenweg 3`, which could be another word, only with a cue or a postcode."""
    text, start, end = match.string, match.start(), match.end()
    if match["strong"] or _CUE.search(text, max(0, start - _BEFORE), start):
        return _with_tail(match)
    place = _PLACE_AFTER_COMMA.match(text, end)
    return (start, place.end()) if place else None


def _after_noun_cue(match: re.Match[str]) -> Span | None:
    before = _CUE_AND_NAME.search(match.string, max(0, match.start() - 2 * _BEFORE), match.start())
    return (before.start("name"), _with_tail(match)[1]) if before else None


# `Am Markt 3, 10115 Berlin`: any name, because postcode and city follow at once
_BEFORE_POSTCODE = re.compile(rf"{_NUMBER}, ?(?:{_POSTCODE})(?!\w) {_NAME}(?: {_NAME})?{_COUNTRY}")
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
    "calle", "c/ ", "carrer", "avenida", "avda", "av.", "rua ", "travessa", "pra\u00e7a", "rambla", "viale", "strada",
    "ul.", "ulica", "\u0443\u043b",
)  # fmt: skip
_CUE_HINTS = ("address", "adresse", "anschrift", "direcci", "endere", "indirizzo", "domicilio")
_EAST_ASIAN_HINTS = ("\u3012", "\u533a", "\u5e02", "\u753a", "\u6751", "\u53f7", "\u865f")

ADDRESS_DETECTORS = (
    Detector(ADDRESS, _ENGLISH, _english, digits=1),
    Detector(ADDRESS, _FRENCH, _french, digits=1),
    Detector(ADDRESS, _JOINED, _joined, digits=1, hints=_JOINED_HINTS),
    Detector(ADDRESS, _PREFIXED, _with_tail, digits=1, hints=_PREFIXED_HINTS),
    Detector(ADDRESS, _LAST, _after_noun_cue, digits=1, hints=_CUE_HINTS),
    Detector(ADDRESS, _BEFORE_POSTCODE, _before_postcode, digits=5, hints=(",",)),
    Detector(ADDRESS, _BOX, digits=1, hints=("box", "postfach", "apartado", "casilla")),
    Detector(ADDRESS, _EAST_ASIAN, digits=1, hints=_EAST_ASIAN_HINTS),
)
