import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMISES = ROOT / "docs" / "promises.md"
TEXTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *(path for folder in ("tstn", "bench", "kernels") for path in (ROOT / folder).rglob("*.py")),
]


def test_every_test_that_holds_a_promise_exists():
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", PROMISES.read_text())
    assert len(named) > 50
    missing = {
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or f"\ndef {name}(" not in (ROOT / path).read_text()
    }
    assert not missing


def test_every_promise_has_a_test():
    rows = [line for line in PROMISES.read_text().splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 25
    assert all("::test_" in row.rsplit("|", 2)[1] for row in rows)


def test_advice_to_install_is_for_a_checkout():
    """The package index has no tstn. Every extra that is named is there."""
    extras = set()
    for path in TEXTS:
        text = path.read_text()
        assert not re.search(r"pip install '?tstn", text), path
        extras |= set(re.findall(r"pip install '\.\[([\w-]+)\]'", text))
        extras |= set(re.findall(r"how_to_install\('([\w-]+)'\)", text))
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert {"demo", "experiments", "svhn", "bench-peers"} <= extras <= set(re.findall(r"^([\w-]+) =", declared, re.M))
