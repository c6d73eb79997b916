"""VMs and host clusters: their records, and the store that keeps them."""
