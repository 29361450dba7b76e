"""The VTAB-1K protocol over seven packaged tasks: choose on 200 images, train the winner again on all 1,000, test once.

    sweep run --study mini_vtab --n-parallel 32

Two natural-like tasks (Fashion-MNIST, MNIST), two specialised-like (digits from forms, typefaces), three structured
(counting, size, place), 800 / 200 images each and test images of their own. None of them is VTAB's. The search is that
of `lr_rank`. Fashion-MNIST is left out, and said, where Debian's package is not installed.
"""

from dataclasses import replace

from studies.lr_rank import study as lr_rank

study = replace(lr_rank, data="mini-vtab")
