"""The kinds of GPUs that are known: BentoML's names of them, and Ray's."""

from collections.abc import Mapping

ACCELERATORS: Mapping[str, str] = {
    "nvidia-tesla-t4": "T4",
    "nvidia-tesla-p4": "P4",
    "nvidia-tesla-k80": "K80",
    "nvidia-tesla-p100": "P100",
    "nvidia-tesla-v100": "V100",
    "nvidia-tesla-a100": "A100",
    "nvidia-tesla-h100": "H100",
    "nvidia-a10g": "A10G",
    "nvidia-l4": "L4",
    "nvidia-a100-80gb": "A100-80G",
    "nvidia-h100-80gb": "H100",
    "nvidia-h200-141gb": "H200",
    "nvidia-b200": "B200",
    "nvidia-gb200": "GB200",
    "nvidia-rtx-pro-6000": "RTX-PRO-6000",
    "amd-mi300x": "AMD-Instinct-MI300X-OAM",
    "amd-mi325x": "AMD-Instinct-MI325X-OAM",
    "amd-mi355x": "AMD-Instinct-MI355X-OAM",
}
"""BentoML's names of GPUs, and Ray's."""
