"""Runs a study: preparation, plan, search, linear-probe reference, and test."""
