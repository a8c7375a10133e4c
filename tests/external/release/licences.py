"""Licences of dependencies, as SPDX expressions, against a list of those that are allowed."""

import re
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

ALLOWED = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 CNRI-Python ISC MIT MIT-CMU MPL-1.1"
    " MPL-2.0 PSF-2.0 Unlicense Zlib".split()
)
ALLOWED_EXCEPTIONS = frozenset({"LLVM-exception"})
# Classifiers and free texts of packages that do not declare an SPDX expression.
_TEXTS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_LICENCE = re.compile(r"([\w.+-]+)(?: WITH ([\w.-]+))?")


def expression_of(metadata: dict[str, Any]) -> str | None:
    """Return the licence of a package as an SPDX expression; None if it declares none known.

    Args:
        metadata: Core metadata as `pip install --report` gives it.
    """
    declared = [metadata.get("license_expression"), metadata.get("license")]
    kinds = (line.split(" :: ") for line in metadata.get("classifier") or ())
    declared += [kind[-1] for kind in kinds if kind[0] == "License" and len(kind) > 2]
    for text in declared:
        if not text:
            continue
        try:
            return str(canonicalize_license_expression(_TEXTS.get(text, text)))
        except InvalidLicenseExpression:
            continue
    return None


def is_allowed(expression: str) -> bool:
    """Return whether a valid SPDX expression leaves a choice of allowed licences only."""

    def verdict(match: re.Match[str]) -> str:
        name, exception = match.groups()
        if name in ("AND", "OR"):
            return name.lower()
        return str(name in ALLOWED and (exception is None or exception in ALLOWED_EXCEPTIONS))

    return bool(eval(_LICENCE.sub(verdict, expression)))  # True, False, and, or, parentheses
