"""Side-networks: small trainable modules fed by the stages of a frozen backbone."""

from sweep.side_networks.convolution import Convolution, FullConvolution
from sweep.side_networks.ladder import Ladder
from sweep.side_networks.ladder_rows import RowsConvolution, RowsFullConvolution, RowsLadder
from sweep.side_networks.last import LAST
from sweep.side_networks.linear_probe import LinearProbe
from sweep.side_networks.mixer import Mixer
from sweep.side_networks.multi_stage import MultiStage
from sweep.side_networks.padding import cut_to
from sweep.side_networks.pyramid import PyramidLAST
from sweep.side_networks.pyramid_rank_space import RankSpacePyramidLAST
from sweep.side_networks.rank_space import RankSpaceLAST

__all__ = [
    "LAST",
    "Convolution",
    "FullConvolution",
    "Ladder",
    "LinearProbe",
    "Mixer",
    "MultiStage",
    "PyramidLAST",
    "RankSpaceLAST",
    "RankSpacePyramidLAST",
    "RowsConvolution",
    "RowsFullConvolution",
    "RowsLadder",
    "cut_to",
]
