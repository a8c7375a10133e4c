"""A planted corpus, audited once."""

from pathlib import Path
from typing import Any

import pytest

from dedup.corpus.jobs import Job, audit
from tests.corpus import planted


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write(tmp_path_factory.mktemp("planted") / "corpus")


@pytest.fixture(scope="session")
def audited(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return audit(Job(str(corpus), str(tmp_path_factory.mktemp("audited")), workers=2))
