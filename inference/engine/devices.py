"""The devices on which networks run."""

import torch

from storage.errors import Permanent


def resolve_devices(setting: str) -> list[str]:
    """Return the devices that `work.devices` means: "auto", or names separated by commas.

    Raises Permanent on a wrong name.
    """
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if setting == "auto":
        return cuda or ["cpu"]
    allowed = ["cpu", *cuda]
    names = list(dict.fromkeys(name.strip() for name in setting.split(",") if name.strip()))
    wrong = [name for name in names if name not in allowed]
    if wrong or not names:
        raise Permanent(f"{', '.join(wrong) or 'no device'} is not here; allowed: auto, {', '.join(allowed)}")
    return names
