"""The doors to the services that work in a pod uses. Nothing above reads or writes anywhere else."""
