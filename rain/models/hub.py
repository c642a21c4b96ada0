"""Whether the model hub can be reached."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

TIMEOUT_S = 5.0


def hub_reachable(timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether the model hub answers: one request, where transformers would retry for a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout_s):
            return True
    except urllib.error.HTTPError:
        return True  # it answers, if only to refuse
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it answers; the hub's own client has its own certificates
    except (OSError, ValueError):
        return False
