"""Which learning rate, rank and loss, of texts.

    sweep run --study text_lr_rank --n-parallel 32

Out of the box it tells from which of 20 Usenet groups a post is (`--data newsgroups`), with MiniLM-L6 tapped after
every second block. Give it texts of your own with `--data texts.csv`, a table with the columns text and label. Needs
the extra `text`.
"""

from dataclasses import replace

from studies.lr_rank import study as lr_rank

study = replace(lr_rank, backbone="minilm_l6", data="newsgroups", group_size=2)
