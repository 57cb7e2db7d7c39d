"""A client of ``loraloom serve``, as thin as it can be."""

from .client import Client, Video
from .wire import JobEvent, Picture

__all__ = ["Client", "JobEvent", "Picture", "Video"]
