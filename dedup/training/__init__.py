"""Training models not to loop: rewards, preference pairs and FTPO rows.

Nothing in here trains: the results are what TRL, verl, OpenRLHF and FTPO trainers read.
"""

from dedup.training.ftpo import FtpoRows
from dedup.training.incidents import incident_of
from dedup.training.pairs import preference_pair
from dedup.training.rewards import RepetitionReward

__all__ = ["FtpoRows", "RepetitionReward", "incident_of", "preference_pair"]
