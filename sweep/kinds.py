"""What a backbone reads, and what a data set holds."""

from typing import Literal

Kind = Literal["images", "texts"]
