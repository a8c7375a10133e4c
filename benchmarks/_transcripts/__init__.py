"""Stories that `agent_transcripts.py` renders: what agents did, by harness and kind."""
