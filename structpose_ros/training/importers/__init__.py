"""Readers of other people's recordings: posed frames of the colour camera with registered depth."""
