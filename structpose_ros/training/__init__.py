"""Offline training: recordings in, one model file out. Importing it alone imports neither torch nor ROS."""
