"""Lanes that train on workers: processes of this machine, or of a cluster."""
