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
_TABLE = re.compile(r"(?<=<!-- matrix -->\n).*?(?=<!-- /matrix -->)", re.S)


def table(results: dict[str, dict[str, object]]) -> str:
    """Return the table, a row an integration."""
    rows = [
        f"| Integration | {' | '.join(CAPABILITIES)} | Tested with |",
        "| --- |" + " :-: |" * len(CAPABILITIES) + " --- |",
    ]
    for name, result in sorted(results.items()):
        page = PAGE.parent / f"{name}.md"
        title = page.read_text("utf-8").splitlines()[0].removeprefix("# ")
        cells = ["✓" if one in result["shows"] else "–" for one in CAPABILITIES]
        versions = ", ".join(
            f"{package} {number}" for package, number in result["versions"].items()
        )
        rows.append(f"| [{title}]({page.name}) | {' | '.join(cells)} | {versions} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    folders = Path(__file__).parent.glob("*/requirements.txt")
    names = sorted(folder.parent.name for folder in folders)
    missing = [name for name in names if not (RESULTS / f"{name}.json").exists()]
    if missing:
        raise SystemExit(f"not tested yet: {', '.join(missing)}. `make test-integrations` does it.")
    results = {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in names}
    new = table(results)
    text = PAGE.read_text("utf-8")
    PAGE.write_text(_TABLE.sub(lambda _: new, text))
    print(new, end="")


if __name__ == "__main__":
    main()
