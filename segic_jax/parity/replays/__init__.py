"""Compute the arrays of each file of goldens with the code of this project."""
