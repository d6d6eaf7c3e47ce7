"""Offline training: recordings in, one model file out. Importing this package alone imports neither torch nor ROS."""
