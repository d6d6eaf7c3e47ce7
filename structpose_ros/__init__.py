"""Camera relocalisation for ROS 2: one image and its CameraInfo in, a 6-DoF pose in a known map out."""

__version__ = "0.1.0"
