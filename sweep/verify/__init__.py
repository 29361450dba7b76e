"""A recorded trial trained again, alone, and compared with its record."""
