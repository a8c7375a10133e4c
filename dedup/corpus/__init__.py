"""Repetition in corpora: signals of documents, datatrove steps, and an audit.

The signals need numpy only. The steps and the commands need the extra `corpus`, which installs
datatrove with its readers.
"""

from dedup.corpus.signals import signals

__all__ = ["signals"]
