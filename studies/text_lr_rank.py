"""Which learning rate, rank and loss? The same search for texts.

    sweep run --study text_lr_rank --n-parallel 32

By default the task is to tell from which of 20 Usenet groups a post comes (`--data newsgroups`). The backbone is
MiniLM-L6. Three stages are read, spread evenly over the network, so more blocks take no more space in the
cache. Give your own texts with `--data texts.csv`, a table with the columns `text` and `label`. Needs the extra `text`.
"""

from dataclasses import replace

from studies.lr_rank import study as lr_rank

study = replace(lr_rank, backbone="minilm_l6", data="newsgroups", stages=3)
