"""Side-networks: small trainable modules fed by the stages of a frozen backbone."""

from sweep.side_networks.last import LAST, trim_rank
from sweep.side_networks.linear_probe import LinearProbe
from sweep.side_networks.pyramid import PyramidLAST
from sweep.side_networks.pyramid_rank_space import RankSpacePyramidLAST
from sweep.side_networks.rank_space import RankSpaceLAST

__all__ = ["LAST", "LinearProbe", "PyramidLAST", "RankSpaceLAST", "RankSpacePyramidLAST", "trim_rank"]
