"""The search of `lr_rank` with more trials, of which only the better third continues after each rung.

    sweep run --study lr_rank_halving --n-parallel 32

Trials are compared after 1, 3 and 9 of 12 epochs. The lane of a trial that is stopped takes a new trial at once.
"""

from dataclasses import replace

from studies.lr_rank import study as lr_rank
from sweep import Halving

study = replace(lr_rank, trials=96, halving=Halving(eta=3, first_rung=1))
