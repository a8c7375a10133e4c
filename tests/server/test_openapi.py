"""The OpenAPI document says what the server does: schemathesis asks it all kinds of things and finds nothing."""

import subprocess
import sys

from dedup_server.openapi import document
from tests.server.mock_upstream import proxy, upstream


def test_every_endpoint_is_described() -> None:
    described = document(is_local=False)
    assert set(described["paths"]) >= {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/models",
        "/metrics",
    }
    shape = document(is_local=True)["paths"]["/v1/completions"]["post"]["requestBody"]
    assert "no_repeat_ngram_size" in shape["content"]["application/json"]["schema"]["properties"]
    assert "$ref" not in str(shape)


def test_schemathesis_finds_nothing() -> None:
    with upstream() as mock, proxy(mock.url) as url:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{url}/openapi.json",
            "--max-examples",
            "25",
            "--seed",
            "5",
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
