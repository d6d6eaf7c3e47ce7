"""Readers of other people's recordings; each gives posed frames of the colour camera with registered depth."""
