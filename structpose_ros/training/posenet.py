"""PoseNet with learned weights (Kendall and Cipolla, CVPR 2017), the baseline of the paper's Table 1.

The backbone is the configured one, so that both methods get the same capacity, input and augmentation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from structpose_ros.camera import Camera, resize_image
from structpose_ros.geometry import rotation_from_quaternion, transform
from structpose_ros.training.config import ConfigError, NetworkConfig, load_config
from structpose_ros.training.dataset import normalize_images
from structpose_ros.training.networks import BACKBONE_SHAPES, residual_layers
from structpose_ros.training.runs import CHECKPOINT, CONFIG, read_checkpoint

FEATURES = 2048  # of the fully connected layer, as in Kendall, Grimes and Cipolla, ICCV 2015
INITIAL_LOG_VARIANCES = (0.0, -3.0)  # of position and rotation, as in Kendall and Cipolla


class PoseNet(nn.Module):
    """Image to position (B, 3) m, centred, and unit quaternion (B, 4) as w x y z."""

    def __init__(self, config: NetworkConfig) -> None:
        """Build the configured backbone with a regressor on its pooled features."""
        super().__init__()
        _, width = BACKBONE_SHAPES[config.backbone]
        self.conv1, self.bn1, self.layer1, self.layer2, self.layer3, self.layer4 = residual_layers(config)
        self.features = nn.Linear(8 * width, FEATURES)
        self.position = nn.Linear(FEATURES, 3)
        self.quaternion = nn.Linear(FEATURES, 4)
        self.log_variances = nn.Parameter(torch.tensor(INITIAL_LOG_VARIANCES))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        with torch.no_grad():
            self.quaternion.bias[0] += 1.0  # away from 0, where a quaternion has no direction

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Predict from normalised images (B, 3, H, W)."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image_B3HW))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features = functional.relu(self.features(x.mean(dim=(2, 3))))
        return self.position(features).float(), functional.normalize(self.quaternion(features).float())

    def loss(self, position: Tensor, quaternion: Tensor, map_from_camera: Tensor) -> Tensor:
        """Return L = |x - x'| exp(-s_x) + s_x + |q - q'| exp(-s_q) + s_q, means over the batch (B, 4, 4).

        q and -q are one rotation: the nearer counts.
        """
        true = quaternions_from_rotations(map_from_camera[:, :3, :3]).to(quaternion)
        true = torch.where((true * quaternion).sum(dim=1, keepdim=True) < 0, -true, true)
        position_error = (position - map_from_camera[:, :3, 3].to(position)).norm(dim=1).mean()
        rotation_error = (quaternion - true).norm(dim=1).mean()
        s_x, s_q = self.log_variances
        return position_error * torch.exp(-s_x) + s_x + rotation_error * torch.exp(-s_q) + s_q


def quaternions_from_rotations(rotation: Tensor) -> Tensor:
    """Return unit quaternions (B, 4) as w x y z of rotations (B, 3, 3), after Bar-Itzhack 2000."""
    r = rotation.double()
    rows = [
        [r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]],
        [r[:, 2, 1] - r[:, 1, 2], r[:, 0, 0] - r[:, 1, 1] - r[:, 2, 2]],
        [r[:, 0, 2] - r[:, 2, 0], r[:, 0, 1] + r[:, 1, 0], r[:, 1, 1] - r[:, 0, 0] - r[:, 2, 2]],
        [
            r[:, 1, 0] - r[:, 0, 1],
            r[:, 0, 2] + r[:, 2, 0],
            r[:, 1, 2] + r[:, 2, 1],
            r[:, 2, 2] - r[:, 0, 0] - r[:, 1, 1],
        ],
    ]
    lower = torch.zeros(len(r), 4, 4, dtype=r.dtype, device=r.device)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            lower[:, i, j] = value
    return torch.linalg.eigh(lower).eigenvectors[:, :, -1]  # eigh reads the lower triangle


class TrainedPoseNet:
    """A trained PoseNet: image to map_from_camera."""

    def __init__(self, run: Path) -> None:
        """Load what `structpose train` with `method: posenet` left in `run`.

        Raises:
            ConfigError: it is no such run.
        """
        config = load_config(run / CONFIG)
        if config.method != "posenet":
            raise ConfigError(f"expected a run with method: posenet in {run}, got {config.method}")
        state = read_checkpoint(run)
        self.identity = hashlib.sha256((run / CHECKPOINT).read_bytes()).hexdigest()
        self._size = config.input
        self._network = PoseNet(config.network)
        self._network.load_state_dict(state["network"])
        self._network.eval()
        self._scene_mean = state["statistics"]["scene_mean"].numpy()

    def localize(self, image_rgb: npt.NDArray[np.uint8], camera: Camera) -> npt.NDArray[np.float64]:
        """Return map_from_camera (4, 4) of an image (H, W, 3)."""
        resized, _ = resize_image(image_rgb, camera, self._size.width, self._size.height)
        image = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))[None]
        with torch.no_grad():
            outputs = self._network(normalize_images(image))
        position, quaternion = (value[0].double().numpy() for value in outputs)
        rotation = rotation_from_quaternion(quaternion[[1, 2, 3, 0]] / np.linalg.norm(quaternion))
        return transform(rotation, position + self._scene_mean)
