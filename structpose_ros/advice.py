"""What to do about each reason that the node gives: for its log, and for the troubleshooting page."""

from __future__ import annotations

# Reasons of rejected frames (`gate.RejectReason`).
FRAMES = {
    "bad_image": "check the camera driver's encoding and the topic's type",
    "no_camera_info": "publish CameraInfo beside the images, or remap camera_info to where it is",
    "bad_camera_info": "calibrate the camera and have its driver publish the result",
    "size_mismatch": "let image and CameraInfo come from the same driver, at the same resolution",
    "bad_frame_id": "let the driver set the image header's frame_id, or set frames.camera_frame",
    "bad_stamp": "let the driver stamp its images",
    "out_of_order": "nothing, if it is rare; else look for a second publisher of the image topic",
    "too_old": "synchronise the clocks, use use_sim_time with a bag, or raise input.max_age",
    "from_future": "synchronise the clocks of the camera's machine and this one, or correct use_sim_time",
    "non_finite": "export the model again: its network gives numbers that are not finite",
    "zero_weights": "uncover the camera; the network trusts nothing in this image",
    "too_few_points": "uncover the camera; the network trusts next to nothing in this image",
    "collinear": "turn the camera to see more of the scene than one line",
    "low_inlier_ratio": "turn the camera to a place of the map; if it is one, record it and train again",
    "high_residual": "turn the camera to a place of the map; if it is one, record it and train again",
    "low_confidence": "turn the camera to a place of the map; if it is one, record it and train again",
    "outside_map": "turn the camera to a place of the map, or raise gate.map_margin",
    "unconfirmed": "wait for the next images: gate.consistency_frames poses in a row must agree",
    "prior_mismatch": "give a better prior or a larger covariance, or call ~/relocalize, which has none",
    "no_base_transform": "publish TF from the base to the camera, or set frames.base_frame (empty: no base)",
    "internal_error": "report this as a bug",
}

# Reasons of the node itself.
NODE = {
    "unconfigured": "let a lifecycle manager or ros2 lifecycle configure it, or set autostart at start",
    "configuring": "wait; TensorRT takes minutes, once, unless build_engine made its engine beforehand",
    "inactive": "let a lifecycle manager or ros2 lifecycle activate it",
    "finalized": "start the node anew",
    "bad_model": "set model.path to a model file that this release exported",
    "bad_provider": "install what the provider needs, or set model.provider to auto, or model.allow_fallback",
    "backend": "read the warning; poses are as good, the start or each frame takes longer than it could",
    "no_image": "start the camera, or remap image to its topic",
    "disabled": "call ~/set_enabled with true",
    "waiting_for_trigger": "call ~/relocalize, or set run.mode to continuous",
    "first_image": "wait for the first result",
    "localized": "nothing",
    "camera_info_unmatched": "let the driver give image and CameraInfo the same stamp",
    "tf_conflict": "choose another tf.mode, or stop the other broadcaster",
    "no_odom_transform": "start the odometry, set frames.odom_frame to its frame, or raise tf.timeout",
}

ADVICE = {**FRAMES, **NODE}
