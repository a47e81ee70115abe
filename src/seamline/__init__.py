"""seamline trains one neural network across small devices, their edge host and a cloud.

kernels: the C core and its faces · runtime: the device, links, job file · edge_host: PyTorch, the
back, the zone · cloud: aggregation of zones · firmware_bridge: Cortex-M.
"""

__version__ = "0.1.0"
