import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROMISES = ROOT / "docs" / "promises.md"


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
