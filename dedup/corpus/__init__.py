"""Repetition in corpora: signals of documents, datatrove steps, and an audit.

The signals need numpy only. The steps and the commands need the extra `corpus`, which installs
datatrove with its readers.
"""

from dedup.corpus.signals import repetition_signals

__all__ = ["repetition_signals"]
