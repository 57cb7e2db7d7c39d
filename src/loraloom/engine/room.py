"""How many bytes this machine has left."""

from __future__ import annotations

import psutil
import torch

from loraloom.memory.staging import Room


def room(device: str, spare: int) -> Room:
    """What is free now on a device and on the host, ``spare`` of it for what is computed.

    A model that computes on the host finds the host's memory in both places.
    """
    host = psutil.virtual_memory().available
    free = torch.cuda.mem_get_info(device)[0] if torch.device(device).type == "cuda" else host
    return Room(int(free), int(host), spare)
