"""Spark, Dask and pools of processes: embkeras inside the engines that its users have."""
