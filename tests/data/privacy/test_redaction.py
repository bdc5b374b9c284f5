"""Contacts are removed from text, and prices, years, scores, titles and ids are kept."""

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brew_data.privacy.redaction import EMAIL, LINK, PHONE, redact

EMAILS = [
    "ana@example.com", "sam.lee@example.com", "ANA.LEE+jobs@Mail.Example.CO.UK", "o'neil@example.org",
    "josé@exämple.de", "ana@пример.рф", "ana_lee-2@my-site.io", "mailto:ana@example.com", "ana\uff20example.com",
    "ana (at) example.com", "ana[at]example[dot]com", "ana@example (dot) com", "ana{at}example.com",
]  # fmt: skip
PHONES = [
    "+1 202-555-0142", "+12025550142", "+1 (202) 555-0142", "(202) 555-0142", "202-555-0142", "202.555.0142",
    "202 555 0142",
    "202\u2011555\u20110142", "1-800-555-0199",
    "+49 30 901820", "+49 (0)30 90 18 20", "+49(0)170 1234567", "0049 30 901820",
    "030 901820", "030/901820", "030 - 90 18 20", "(030) 901820", "0170-1234567", "020 7946 0958", "07700 900123",
    "06 12 34 56 78", "+33 6 12 34 56 78", "+44 20 7946 0958", "+91 98765 43210", "+86 138 0013 8000",
    "098765 43210",
]  # fmt: skip
LINKS = [
    "https://www.linkedin.com/in/ana-lee-1234", "http://example.com/u?id=77", "www.example.com/people/ana",
    "linkedin.com/in/ana", "de.linkedin.com/in/ana", "github.com/ana", "t.me/ana_lee", "wa.me/12025550142",
    "https://user@example.com/x", "https://example.com/#ana", "skype:ana.lee?call", "ftp://example.com/ana",
]  # fmt: skip
CUED = [
    "tel. 555-0142", "call 5550142", "phone: 2025550142", "call me at 555 0142", "Mobile no. 0800 1234",
    "fax 9018201",
]  # fmt: skip
KEPT = [
    "", "nurse in berlin", "1,299.00 EUR", "$1,200,000", "1 200 000 EUR", "1.200.000,00 €", "+10 000 000 followers",
    "50000-60000", "120,000 - 150,000", "1995-2001", "1990-1995 2001-2005 2019", "2024-05-31 18:30:00",
    "2024-05-31T18:30:00+02:00", "31.05.2024 - 02.06.2024", "01/02/2024", "05-31-2024 0800", "9.5/10", "3-2",
    "21-17, 19-21", "08:00 - 17:00", "09.30 - 17.00", "2001: A Space Odyssey (1968)", "11-11-11 (2011)",
    "1-900 (1994)", "24 7: Twenty Four Seven", "10,000 BC", "867-5309", "1776 (1972)", "2012 (2009)",
    "(500) Days of Summer (2009)", "Beverly Hills 90210", "Fahrenheit 9/11 (2004)", "976-EVIL (1988)",
    "REQ-2024-001234", "JR0012345678", "R-202-555-0142", "job 12345678901", "2025550142", "978-3-16-148410-0",
    "ISBN 0-306-40615-2", "4006381333931", "192.168.0.1", "52.5200, 13.4050", "ISO 9001:2015", "Director @ Acme",
    "U2 @ Wembley", "U2@3.5", "look at acme.com", "booking.com", "node.js/express", "ASP.NET/C#", "B.Sc/M.Sc",
    "and/or", "https://acme.com", "www.acme.com", "email marketing", "call centre", "Call of Duty 2003-2019",
    "order 415-555-2671", "ID: 00123-456789", "ISBN 030-640-6152", "ref. no. 0123-456789", "SKU 202 555 0142",
    "phone 128 256 512 GB", "mobile 2019 - 2023", "C++ 20190102", "24/7", "1.0.2.3000",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "contact"),
    [(kind, contact) for kind, contacts in ((EMAIL, EMAILS), (PHONE, PHONES), (LINK, LINKS)) for contact in contacts],
)
def test_contacts_are_removed_and_the_text_around_them_stays(kind: str, contact: str) -> None:
    for before, after in (("", ""), ("nurse ", ""), ("", " nurse"), ("nurse: ", "."), ("(see ", ") nurse")):
        counts: Counter[str] = Counter()
        left = redact(f"{before}{contact}{after}", counts)
        assert left == " ".join(f"{before} {after}".split())
        assert counts == {kind: 1}
    assert redact(f"care, {contact}, law") == "care, law"


@pytest.mark.parametrize("text", CUED)
def test_a_number_after_a_word_for_a_telephone_is_removed(text: str) -> None:
    counts: Counter[str] = Counter()
    left = redact(f"nurse, {text}", counts)
    assert counts == {PHONE: 1}
    assert not any(character.isdigit() for character in left)
    assert left.startswith("nurse, ")


@pytest.mark.parametrize("text", KEPT)
def test_what_is_not_a_contact_is_kept(text: str) -> None:
    assert redact(text) == text


def test_several_contacts_of_a_text_are_counted() -> None:
    counts: Counter[str] = Counter()
    assert redact("a@b.com, +1 202-555-0142, law, c@d.org", counts) == "law"
    assert counts == {EMAIL: 2, PHONE: 1}


JOINTS = [" ", ",", "+", "(", "at", "@", ".", "call ", "0", "555", "-", "/"]
PARTS = st.sampled_from([*EMAILS, *PHONES, *LINKS, *CUED, *KEPT, *JOINTS])


@given(st.lists(PARTS, max_size=6), st.sampled_from(["", " ", ", "]))
def test_removing_twice_changes_nothing_more(parts: list[str], separator: str) -> None:
    once = redact(" ".join(separator.join(parts).split()))
    assert redact(once) == once


UNITS = [
    "a", "@", "a@", "a@b.", "call ", "call . ", "+1 ", "0 ", "0123 ", "http://", "www.", "linkedin.com/", "a.", "1",
    "(at)", "/)", "+",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_no_text_takes_quadratic_time(unit: str) -> None:
    start = time.process_time()
    redact(unit * (40_000 // len(unit)) + "@ 1234567 /")
    assert time.process_time() - start < 2.0
