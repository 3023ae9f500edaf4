"""What the kubelet makes of texts in a pod's manifest before a container sees them."""


def literal(text: str) -> str:
    """The text as an argument or a value of the environment that arrives as it is.

    The kubelet puts environment variables in place of `$(NAME)`, a credential among them, and `$` in place of `$$`
    (k8s.io/kubernetes/third_party/forked/golang/expansion).
    """
    return text.replace("$", "$$")
