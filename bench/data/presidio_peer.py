"""Finds identifiers with Presidio's recognizers. `bench.data.presidio` runs it with an interpreter that has Presidio.

python presidio_peer.py TEXTS FOUND

TEXTS is a JSON list of texts; FOUND becomes a JSON object: version, seconds, and a list of [kind, start, end] for each.
"""

import importlib
import json
import logging
import sys
import time
from importlib.metadata import version
from pathlib import Path

LEAST_SCORE = 0.4  # that of a telephone number without a word beside it; lower ones are guesses, as any nine digits
REGIONS = ("US", "GB", "CA", "IN", "DE", "FR", "ES", "PT", "BR")


def main() -> None:
    recognizers = importlib.import_module("presidio_analyzer.predefined_recognizers")
    used = [
        recognizers.EmailRecognizer(),
        recognizers.PhoneRecognizer(supported_regions=REGIONS),
        recognizers.UrlRecognizer(),
        recognizers.IpRecognizer(),
        recognizers.IbanRecognizer(),
        recognizers.CreditCardRecognizer(),
        recognizers.UsSsnRecognizer(),
    ]
    logging.disable(logging.ERROR)  # without a network, its recognizers use the list of domains that they ship
    texts = json.loads(Path(sys.argv[1]).read_text())
    found = []
    start = time.process_time()
    for text in texts:
        results = [
            result
            for recognizer in used
            for result in recognizer.analyze(text, recognizer.supported_entities, None) or []
        ]
        found.append(
            [[result.entity_type, result.start, result.end] for result in results if result.score >= LEAST_SCORE]
        )
    seconds = time.process_time() - start
    content = {"version": version("presidio-analyzer"), "seconds": seconds, "found": found}
    Path(sys.argv[2]).write_text(json.dumps(content))


if __name__ == "__main__":
    main()
