"""A procedurally built, furnished room and two robot drives through it, written as posed RGB-D frames."""

from .demo import ForeignFolderError, render_demo

__all__ = ["ForeignFolderError", "render_demo"]
