"""Tasks that several of the files beside this folder share: `from utils.status import check_status`."""
