"""Names of objects in the object store, told alike by the pod that writes one and by Airflow, which links to it."""

import re

INBOX, DONE = "inbox/", "done/"  # folders of the data bucket: what waits to be scored, and markers of what was
_SEGMENT_LENGTH = 120  # characters of a slug; S3 look-alikes on a file system allow 255 bytes a path segment
_HASHED = re.compile(r"-[0-9a-f]{12}\Z")  # how a slug ends that is not the text itself


def task_instance(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
    """The folder of a task instance: the same for each of its tries, another for every other one."""
    segments = [dag_id, run_id, task_id] if map_index == -1 else [dag_id, run_id, task_id, str(map_index)]
    return "/".join(slug(segment) for segment in segments)


def is_path(marker: str) -> bool:
    """Whether the marker of a delivery is a file that Airflow looks for, and no object."""
    return marker.startswith("/")


def done(marker: str) -> str:
    """Where the marker of a delivery lies once it is scored."""
    return DONE + marker.removeprefix(INBOX)


def slug(text: str) -> str:
    """The text as one segment of an object key; two texts never share one, but for a collision of 48 hash bits."""
    kept = re.sub(r"[^A-Za-z0-9_.=-]+", "-", text)[:_SEGMENT_LENGTH]
    if kept == text and kept.strip(".") and not _HASHED.search(text):  # or a text could be the slug of another one
        return kept
    import hashlib  # OpenSSL comes with it, which a text that may stay as it is does not need

    return f"{kept.strip('.')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
