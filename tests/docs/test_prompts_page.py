"""The page `prompts.md`: its code prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

from brew_data.prompts.fields import field_values
from brew_data.prompts.suite import TaskSuite
from brew_data.prompts.variation import VariationConfig
from brew_platform.yaml_files import parse_yaml

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"


def test_the_code_of_the_page_prints_the_output_of_the_page(tmp_path: Path) -> None:
    text = PAGE.read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    [expected] = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(code)
    run = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout == expected


def test_the_variations_of_the_page_are_drawn(tmp_path: Path) -> None:
    text = PAGE.read_text().partition("\n## Variation\n")[2].partition("\n### Percentiles\n")[0]
    [yaml] = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    content = parse_yaml(yaml)
    content["entities"]["job"]["quantiles"] = {"applicants": [*range(10, 60, 10), 90.0, 99.0]}
    suite = TaskSuite.from_dict(content)
    rows = [re.findall(r"`([^`]+)`", line) for line in text.splitlines() if line.startswith("| ")][1:]
    instructions, questions, answers = rows
    task, job = suite.tasks[0], {"title": "Nurse", "company": "Acme", "applicants": 55}
    assert suite.instruction(task) == instructions[0]
    assert suite.question_text(task, {}, "job", job) == questions[0]
    drawn: set[tuple[str, str]] = set()
    for number in range(400):
        variation = VariationConfig(share=1.0).draw("m", number)
        record = suite.entities["job"].form(variation, "entities.job").render(field_values(job))
        before, after = suite.question_frame(task, {}, has_entity=True, variation=variation)
        surface = suite.surfaces[0]
        label = suite.label_forms(surface)[suite.label_form(surface, variation)][0]
        drawn |= {("instruction", suite.instruction(task, variation)), ("answer", label)}
        drawn.add(("question", f"{before}{record}{after}"))
    assert {("instruction", shown) for shown in instructions} <= drawn
    assert {("question", shown) for shown in questions} <= drawn
    assert {("answer", shown) for shown in answers} <= drawn
