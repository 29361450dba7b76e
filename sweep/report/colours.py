"""Colours and sizes that the report's figures share."""

OTHERS_COLOUR, WINNER_COLOUR, BASELINE_COLOUR = "rgba(110,120,135,0.35)", "#d1495b", "#00798c"
DOTS_COLOUR = "rgba(110,120,135,0.75)"
DARKER = [[0.0, "#dce6f1"], [1.0, "#08306b"]]
"""From the least to the greatest value."""
FIGURE_HEIGHT = 480
