"""The README's claims that a test can check; its commands are executed in test_readme_commands.py."""

import re

from cli import REPO

from mimicry.attention.shipped import shipped_variants

README = (REPO / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_every_shipped_attention_is_in_the_table() -> None:
    named = set(re.findall(r"`(\w+)`", "\n".join(line for line in README.splitlines() if line.startswith("| `"))))
    assert set(shipped_variants()) <= named


def test_the_python_examples_are_valid_python() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "README.md", "exec")
