"""A stand-in for sensor_msgs_py on machines without ROS 2: its point_cloud2 module.

Installed by tools/bare_ros/install.py only where the real one can't be imported.
"""

STAND_IN = True
