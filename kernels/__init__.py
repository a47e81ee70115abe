"""Everything that device, edge host and firmware must agree on bit for bit: the C core, its Cython faces, the NumPy definition."""
