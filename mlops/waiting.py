"""Why a container waits to be started, by the reasons that the kubelet gives: some pass, and some never do."""

# Given again and again, however long one waits.
PERMANENT = frozenset({"ErrImageNeverPull", "InvalidImageName"})
# These may pass: a registry does not answer, a Secret is about to be written.
TRANSIENT = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ImageInspectError",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
# Seconds that they are given: a registry that stumbles is asked three or four times within a minute.
GRACE = 60.0
