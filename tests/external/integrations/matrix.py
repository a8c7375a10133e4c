"""Write the table of docs/integrations/index.md from what the integrations' tests have shown.

python -m tests.external.integrations.matrix
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / ".venv-integrations"
PAGE = ROOT / "docs" / "integrations" / "index.md"
CAPABILITIES = (
    "sampling",
    "streamed",
    "whole",
    "reasoning",
    "tool arguments",
    "loop cut",
    "source closed",
    "repeats removed",
    "agent loop",
    "metrics",
)
SLOW = ("llama_cpp",)  # tested by hand; its row stays meanwhile
_ROW = re.compile(r"^\| \[[^\]]+\]\((\w+)\.md\).*$", re.M)
_TABLE = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.S)


def table(results: dict[str, dict[str, object]], kept: dict[str, str]) -> str:
    """Return the table, a row an integration; `kept` are rows of those that were not tested."""
    head = [
        f"| Integration | {' | '.join(CAPABILITIES)} | Tested with |",
        "| --- |" + " :-: |" * len(CAPABILITIES) + " --- |",
    ]
    rows = dict(kept)
    for name, result in results.items():
        page = PAGE.parent / f"{name}.md"
        title = page.read_text("utf-8").splitlines()[0].removeprefix("# ")
        cells = ["✓" if one in result["shows"] else "–" for one in CAPABILITIES]
        versions = ", ".join(
            f"{package} {number}" for package, number in result["versions"].items()
        )
        rows[name] = f"| [{title}]({page.name}) | {' | '.join(cells)} | {versions} |"
    return "\n".join([*head, *(rows[name] for name in sorted(rows))]) + "\n"


def main() -> None:
    folders = Path(__file__).parent.glob("*/requirements.txt")
    names = sorted(folder.parent.name for folder in folders)
    untested = [name for name in names if not (RESULTS / f"{name}.json").exists()]
    if missing := [name for name in untested if name not in SLOW]:
        raise SystemExit(f"not tested yet: {', '.join(missing)}. `make test-integrations` does it.")
    tested = [name for name in names if name not in untested]
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in tested}
    text = PAGE.read_text("utf-8")
    old = {row[1]: row[0] for row in _ROW.finditer(text)}
    new = table(results, {name: old[name] for name in untested if name in old})
    PAGE.write_text(_TABLE.sub(lambda _: new, text))
    print(new, end="")


if __name__ == "__main__":
    main()
